"""A run whose machine fails. docs/faults.md has the table of all faults that were tried."""

import errno
import json
import math

import pytest
import torch
from conftest import flags

from trainer.policy.loading import load_policy
from trainer.run.checkpoint import DIGESTS, latest_checkpoint, save_checkpoint
from trainer.run.launch import _sentence
from trainer.run.run import check_finite


class Nothing:
    """Stands for a tokenizer, which writes nothing."""

    def save_pretrained(self, folder):
        pass


@pytest.fixture
def two_checkpoints(random_policy_dir, tmp_path):
    policy = load_policy(flags(), random_policy_dir, torch.device("cpu"))
    optimizer = torch.optim.AdamW(policy.parameters())
    for step in (2, 4):
        save_checkpoint(tmp_path, {"step": step}, policy, Nothing(), optimizer, keep=2)
    return tmp_path


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


MOMENTS = "training/optimizer.safetensors"
FILES = ("model.safetensors", MOMENTS, "state.json", "config.json", DIGESTS)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "torn", "gone", "empty"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(two_checkpoints, name, how):
    newest = two_checkpoints / "checkpoints" / "step_000004"
    path = newest / name
    if how == "flipped":
        flip_a_bit(path)
    elif how == "torn":
        path.write_bytes(path.read_bytes()[:-7])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    said = []
    assert latest_checkpoint(two_checkpoints, said.append).name == "step_000002"
    (sentence,) = said
    assert sentence.startswith(f"{newest} is damaged (")
    assert not newest.exists(), "or the next save would keep it as the newest"


def test_a_whole_checkpoint_is_taken_in_silence(two_checkpoints):
    said = []
    assert latest_checkpoint(two_checkpoints, said.append).name == "step_000004"
    assert said == []


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(two_checkpoints):
    for folder in (two_checkpoints / "checkpoints").iterdir():
        flip_a_bit(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole"):
        latest_checkpoint(two_checkpoints, print)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_ends_the_run_with_its_name(bad):
    check_finite(3, {"reward": 1.0, "event": "reset"})
    with pytest.raises(ValueError, match=r"step 3: reward is -?(nan|inf)"):
        check_finite(3, {"length": 2.0, "reward": bad})


def test_a_run_killed_before_its_first_checkpoint_begins_again(start, tmp_path):
    flags = ["--tiny", "--steps", 1, "--prompts_per_step", 2, "--samples_per_prompt", 2]
    flags += ["--eval_samples", 1, "--eval_every", 1, "--out", tmp_path / "run"]
    metrics, script = tmp_path / "run" / "metrics.jsonl", start("justrl", *flags)
    script.wait_for(metrics.exists)
    script.kill()
    done = start("justrl", *flags).wait()
    assert done.returncode == 0, done.stderr[-2000:]
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [0, 1]


def test_a_full_disk_says_what_to_do_at_any_write():
    error = OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.jsonl")
    assert _sentence(error) == (
        "no space left on the disk to write runs/a/metrics.jsonl: make room, the same command "
        "continues the run"
    )
    assert _sentence(OSError(errno.ENOSPC, "No space left on device")).startswith("no space left")
