"""A run whose machine fails."""

import errno
import json
import math
import signal

import pytest
import torch
from conftest import NO_TOKENIZER, load

from trainer.errors import Refused
from trainer.run.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from trainer.run.launch import _sentence
from trainer.run.run import check_finite


@pytest.mark.parametrize("name", ["model", "training/optimizer", "state", "config"])
@pytest.mark.parametrize("how", ["torn", "gone", "empty"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(random_policy_dir, tmp_path, name, how):
    policy = load(random_policy_dir)
    optimizer = torch.optim.AdamW(policy.parameters())
    state = {"step": 4, "data": ""}
    save_checkpoint(tmp_path, state, policy, NO_TOKENIZER, optimizer, keep=2)
    folder = latest_checkpoint(tmp_path)
    load_checkpoint(folder, state, policy, optimizer)
    (path,) = folder.glob(f"{name}.*")
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7] if how == "torn" else b"")
    sentence = rf"{folder} is damaged \(.*\): delete it, and the same command continues"
    with pytest.raises(Refused, match=sentence):
        load_checkpoint(folder, state, policy, optimizer)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_ends_the_run_with_its_name(bad):
    check_finite(3, {"reward": 1.0, "event": "reset"})
    with pytest.raises(ValueError, match=r"step 3: reward is -?(nan|inf)"):
        check_finite(3, {"length": 2.0, "reward": bad})


def test_a_run_killed_before_its_first_checkpoint_begins_again(start, tmp_path):
    flags = ["--tiny", "--steps", 1, "--prompts_per_step", 2, "--samples_per_prompt", 2]
    flags += ["--eval_samples", 1, "--eval_every", 1, "--out", tmp_path / "run"]
    metrics = tmp_path / "run" / "metrics.jsonl"
    killed = start("justrl", *flags, signals=(signal.SIGKILL, 0, 0)).wait()
    assert killed.returncode == -signal.SIGKILL and metrics.exists()
    done = start("justrl", *flags).wait()
    assert done.returncode == 0, done.stderr[-2000:]
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [0, 1]


def test_a_full_disk_says_what_to_do_at_any_write():
    full = errno.ENOSPC, "No space left on device"
    what_to_do = ": make room, the same command continues the run"
    assert _sentence(OSError(*full)) == f"no space left on the disk{what_to_do}"
    assert _sentence(OSError(*full, "a.json")) == (
        f"no space left on the disk to write a.json{what_to_do}"
    )
