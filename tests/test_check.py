"""--check: what it prints, what it refuses, and that it leaves nothing behind."""

import dataclasses
import importlib
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, python

import justrl
import trainer.run.check as checking
from trainer import machine
from trainer.data import chat_ids
from trainer.errors import Refused
from trainer.policy.policy import Policy
from trainer.policy.pretrained import load_tokenizer
from trainer.run.files import read_jsonl
from trainer.run.flags import FREE
from trainer.run.launch import launch, model_folder

FEW = {"prompts_per_step": 2, "samples_per_prompt": 2, "tokens_per_micro_batch": 128}
FEW |= {"max_response_tokens": 16, "eval_max_tokens": 16}
FLAGS = [f"--{name}={value}" for name, value in FEW.items()]


def config_of(recipe, out, **changes):
    module = importlib.import_module(recipe)
    return module.Config(**(module.TINY | {"tiny": True, "out": str(out)} | FEW | changes))


def checked(config, main=None):
    main = main or importlib.import_module(type(config).__module__).main
    checking.check(main, config, model_folder(config.model))


def test_the_recipe_itself_is_tried_at_its_longest_with_full_micro_batches(tmp_path, capsys):
    """So a template that refuses a turn, or a loss that fails, fails the check too."""
    seen = []

    def main(tried):
        seen.append((tried, read_jsonl(Path(tried.data))))
        justrl.main(tried)
        seen.append(read_jsonl(Path(tried.out) / "metrics.jsonl"))

    config = config_of("justrl", tmp_path / "deep" / "run", prompts_per_step=8, updates_per_step=2)
    checked(config, main)
    (tried, problems), steps = seen
    # On one rank two micro-batches of 128 // (48 + 16) responses in each of 2 updates, and more
    # because few tokens are sampled: all prompts.
    assert tried.prompts_per_step == 8 and len(problems) == 8
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["length"] == 16 and step["truncated"] == 1 for step in steps), "none has ended"
    tokenizer = load_tokenizer(model_folder(config.model))
    lengths = {len(chat_ids(tokenizer, row["problem"])) for row in problems}
    assert min(lengths) > 30 and max(lengths) <= 48
    printed = capsys.readouterr().out
    for line in ("host memory", "disk", "seconds a step", "the whole run"):
        assert re.search(rf"^{line} .*\d", printed, re.M), printed
    assert "fits" in printed and "does not fit" not in printed
    assert list(tmp_path.iterdir()) == []


def test_a_check_is_a_flag_of_every_script_and_all_it_does(tmp_path, monkeypatch, capsys):
    command = ["prorl.py", "--tiny", "--check", *FLAGS, "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(ROOT / "prorl.py"), run_name="__main__")
    assert "seconds a step" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_ranks_check_together(tmp_path):
    done = python("justrl.py", "--tiny", "--check", *FLAGS, "--out", tmp_path / "run", ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("seconds a step") == 1 and "2 rank(s)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_in_training_becomes_the_flag_to_change(tmp_path, monkeypatch):
    """Whole command, error and all: one sentence, status 1, and no folder left."""
    forward = Policy.forward

    def no_room_for_gradients(self, micro, temperature):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, micro, temperature)

    monkeypatch.setattr(Policy, "forward", no_room_for_gradients)
    config = config_of("justrl", tmp_path / "run", gradient_checkpointing=True, check=True)
    with pytest.raises(SystemExit) as end:
        launch(justrl.main, config)
    assert "ran out while training; lower --tokens_per_micro_batch, to 64" in str(end.value)
    assert list(tmp_path.iterdir()) == []
    config.tokens_per_micro_batch = 64
    assert checking.advice(config, "training") == "lower --max_response_tokens"
    config.gradient_checkpointing = False
    assert checking.advice(config, "training") == "give --gradient_checkpointing true"


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("[enforce fail at alloc_cpu.cpp] can't allocate memory", "while sampling; lower --max_re"),
        ("Try increasing `gpu_memory_utilization` or decreasing", "raise --engine_memory"),
        ("GPU memory utilization. Decrease GPU memory utilization", "lower --engine_memory"),
        ("another fault", "^another fault$"),
    ],
)
def test_memory_that_runs_out_in_sampling_names_the_flags_of_sampling(message, sentence, tmp_path):
    def generate(_):
        raise RuntimeError(message)

    with pytest.raises((Refused, RuntimeError), match=sentence):
        checked(config_of("justrl", tmp_path / "run"), generate)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("memory", "kept", "sentence"),
    [(1000, 2, "does not fit: weights.* --model"), (10**12, 10**12, "disk, .*lower --keep_checkp")],
)
def test_what_cannot_fit_is_refused_before_anything_is_loaded_or_written(
    tmp_path, monkeypatch, memory, kept, sentence
):
    monkeypatch.setattr(machine, "host_memory", lambda: memory)
    config = config_of("justrl", tmp_path / "run", keep_checkpoints=kept)
    with pytest.raises(Refused, match=sentence):
        checked(config, lambda _: pytest.fail("loaded"))
    assert list(tmp_path.iterdir()) == []


def test_a_resource_of_which_there_is_too_little_is_named_in_the_table_and_at_the_end():
    needs = [checking.Need("GPU memory", 3e9, 2e9, "give --offload")]
    needs += [checking.Need("disk", 1e9, 2e9, "")]
    assert "GPU memory                   3.00 GB     2.00 GB  does not fit" in (
        checking.table(needs)
    )
    with pytest.raises(Refused) as refused:
        checking.refuse_too_little(needs)
    assert str(refused.value) == (
        "this run does not fit: GPU memory, 1.00 GB too little; give --offload"
    )


def test_the_least_free_memory_of_a_gpu_counts_whoever_took_it(monkeypatch):
    """As vLLM asleep has given it back: torch's own counters would go on counting it."""
    free = iter([80e9, 30e9, 55e9])
    monkeypatch.setattr(machine, "device_memory", lambda _: next(free))
    least = machine.LeastFree(torch.device("cuda"))
    looks = iter([False, False, True])
    monkeypatch.setattr(least.ended, "wait", lambda _: next(looks))
    least.run()
    gpu, _ = checking.memory_needed(config_of("justrl", "x"), least)
    assert gpu[:3] == ("GPU memory", 50e9, 80e9) and "--" in gpu.flag


def test_ctrl_c_ends_a_check_without_a_verdict(tmp_path, capsys):
    """The recipe ends after the step at hand, as it does in a run."""

    def one_step(tried):
        Path(tried.out).mkdir()
        (Path(tried.out) / "metrics.jsonl").write_text('{"step": 1}\n')

    with pytest.raises(KeyboardInterrupt):
        checked(config_of("justrl", tmp_path / "run"), one_step)
    assert "fits" not in capsys.readouterr().out and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(Refused, match=r"cannot make the folder .*give another --out"):
        checked(config_of("justrl", tmp_path / "run"))


def test_many_tokens_are_tried_in_part_and_the_engine_keeps_room_for_evaluations(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checking, "TOKENS", 0)
    config = config_of("justrl", "x", prompts_per_step=32, updates_per_step=2, eval_max_tokens=40)
    tried = checking.at_its_hardest(config, model_folder(config.model), tmp_path)
    assert tried.prompts_per_step * tried.samples_per_prompt == 2 * 2 * 2
    assert tried.max_prompt_tokens + tried.max_response_tokens == 48 + 40
    assert tried.max_response_tokens == 16 and not tried.eval_every


def test_the_estimates_follow_from_a_tried_step():
    config = config_of("justrl", "x", prompts_per_step=10, samples_per_prompt=4, updates_per_step=2)
    config.steps, config.eval_every, config.eval_samples = 20, 10, 4
    config.max_response_tokens, config.eval_max_tokens = 100, 50
    tried = dataclasses.replace(config, prompts_per_step=5)
    step = {"seconds_rollout": 4.0, "seconds_logps": 1.0, "seconds_update": 2.0}
    step |= {"seconds_sync": 3.0, "seconds_reward": 9.0, "seconds_step": 19.0}
    text = checking.times(config, tried, step, held_out=5)
    assert re.search(r"^seconds a step +17 at most$", text, re.M)  # 2 * (4 + 1 + 2) + 3
    # An evaluation: 5 problems x 4 answers of 50 tokens, where 20 answers of 100 took 4 seconds.
    assert re.search(rf"^the whole run +{(20 * 17 + 3 * 2) / 60:.1f} minutes", text, re.M)


def test_a_check_is_no_part_of_the_recipe():
    """A run may be checked, reported and uploaded without becoming another run."""
    assert {"check", "report_to", "push_to_hub"} <= FREE and "reward" not in FREE
