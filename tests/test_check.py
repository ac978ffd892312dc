"""--check: what it prints, what it refuses, and that it leaves nothing behind."""

import dataclasses
import importlib
import json
import os
import re
import types

import pytest
import torch
from conftest import python, save_random_model

import trainer.run.check as checking
from trainer.policy.policy import Policy
from trainer.run.launch import launch, model_folder

FEW = {"prompts_per_step": 2, "samples_per_prompt": 2, "tokens_per_micro_batch": 128}
FEW |= {"max_response_tokens": 16, "eval_max_tokens": 16}


def config_of(recipe, out, **changes):
    module = importlib.import_module(recipe)
    return module.Config(**(module.TINY | {"tiny": True, "out": str(out)} | FEW | changes))


def checked(config):
    checking.check(config, model_folder(config.model))


@pytest.mark.parametrize("recipe", ["justrl", "prorl", "liteppo"])
def test_a_check_prints_what_a_run_needs_and_leaves_nothing(recipe, tmp_path, capsys):
    checked(config_of(recipe, tmp_path / "deep" / "run"))
    printed = capsys.readouterr().out
    for line in ("host memory", "disk", "seconds a step", "the whole run"):
        assert re.search(rf"^{line} .*\d", printed, re.M), printed
    assert "fits" in printed and "does not fit" not in printed
    assert ("mixed rewards" in printed) == (recipe == "prorl")
    assert list(tmp_path.iterdir()) == []


def test_a_check_is_a_flag_of_every_script_and_its_table_is_all_it_does(start, tmp_path):
    flags = [f"--{name}={value}" for name, value in FEW.items()]
    done = start("prorl", "--tiny", "--check", *flags, "--out", tmp_path / "run").wait()
    assert done.returncode == 0, done.stderr
    assert "seconds a step" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_ranks_check_together(tmp_path):
    flags = [f"--{name}={value}" for name, value in FEW.items()]
    done = python("justrl.py", "--tiny", "--check", *flags, "--out", tmp_path / "run", ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("seconds a step") == 1 and "2 rank(s)" in done.stdout
    assert list(tmp_path.iterdir()) == []


FORWARD = Policy.forward


def no_room_for_gradients(self, micro, temperature):
    if torch.is_grad_enabled():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return FORWARD(self, micro, temperature)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({}, "--tokens_per_micro_batch, to 64 at the least"),
        ({"tokens_per_micro_batch": 64, "gradient_checkpointing": True}, "--max_response_tokens"),
        ({"gradient_checkpointing": False}, "--gradient_checkpointing true"),
    ],
)
def test_memory_that_runs_out_in_training_becomes_the_flag_to_change(
    changes, flag, tmp_path, monkeypatch, capsys
):
    """Whole command, error and all: one sentence, status 1, and no folder left."""
    monkeypatch.setattr(Policy, "forward", no_room_for_gradients)
    config = config_of("justrl", tmp_path / "run", **({"gradient_checkpointing": True} | changes))
    config.check = True
    with pytest.raises(SystemExit) as end:
        launch(lambda _: pytest.fail("trained"), config)
    assert flag in str(end.value) and "training" in str(end.value)
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_in_sampling_names_the_flags_of_sampling(tmp_path, monkeypatch):
    message = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"

    def fail(*_args):
        raise RuntimeError(message)

    monkeypatch.setattr(checking, "sample", fail)
    with pytest.raises(ValueError, match=r"while sampling; lower --max_response_tokens"):
        checked(config_of("justrl", tmp_path / "run"))
    message = "another fault"
    with pytest.raises(RuntimeError, match="another fault"):
        checked(config_of("justrl", tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("message", "flag"),
    [
        ("Try increasing `gpu_memory_utilization` or decreasing `max_model_len`", "raise"),
        ("is less than desired GPU memory utilization. Decrease GPU memory utilization", "lower"),
    ],
)
def test_vllm_s_own_complaints_name_our_flag(message, flag, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise ValueError(message)

    monkeypatch.setattr(checking, "make_engine", fail)
    with pytest.raises(ValueError, match=f"{flag} --engine_memory"):
        checked(config_of("justrl", tmp_path / "run"))


def test_a_model_whose_weights_alone_are_too_large_is_refused_before_it_is_loaded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checking, "host_memory", lambda: 1000)
    monkeypatch.setattr(checking, "load_policy", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"does not fit: weights.* --model"):
        checked(config_of("justrl", tmp_path / "run"))


def test_too_small_a_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    room = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda _: room)
    monkeypatch.setattr(checking, "save_checkpoint", lambda *_a, **_k: pytest.fail("written"))
    with pytest.raises(ValueError, match=r"GB of disk are free; give an --out on a larger disk"):
        checked(config_of("justrl", tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_for_all_checkpoints_is_a_line_of_the_table(tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match=r"disk, .*too little; lower --keep_checkpoints"):
        checked(config_of("justrl", tmp_path / "run", keep_checkpoints=10**9))
    assert re.search(
        r"^disk .*does not fit: lower --keep_checkpoints", capsys.readouterr().out, re.M
    )


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(checking.tempfile, "mkdtemp", refuse)
    with pytest.raises(ValueError, match=r"cannot write in .*give another --out"):
        checked(config_of("justrl", tmp_path / "run"))


def test_the_micro_batch_is_the_longest_that_the_flags_allow(tmp_path, monkeypatch):
    seen, train = [], checking.train
    monkeypatch.setattr(checking, "train", lambda *a: (seen.append(a[4]), train(*a)))
    config = config_of("justrl", tmp_path / "run", updates_per_step=1)
    checked(config)
    (rollouts,) = seen
    assert len(rollouts) == 128 // (48 + 16)
    assert {len(r.prompt_ids) for r in rollouts} == {48}
    assert {len(r.response_ids) for r in rollouts} == {16}


def test_the_estimates_follow_from_the_unit_costs():
    config = config_of("justrl", "x", prompts_per_step=10, samples_per_prompt=4, updates_per_step=2)
    config.steps, config.eval_every, config.save_every, config.eval_samples = 20, 10, 5, 4
    config.max_response_tokens = config.eval_max_tokens = 100
    costs = checking.Costs(
        prompt_tokens=50,
        held_out=5,
        at_once=20,
        prefill=1.0,
        decode=0.1,
        forward=0.001,
        update=0.002,
        optimizer=0.5,
        push=3.0,
        save=7.0,
        build=11.0,
    )
    step = checking.step_seconds(config, costs, 100)
    # 40 responses in 2 rounds of 20, of 50 + 100 tokens each
    assert step == pytest.approx({"rollout": 22.0, "logps": 6.0, "update": 13.0, "sync": 3.0})
    # 20 answers an evaluation take one round; 3 evaluations, 5 checkpoints
    assert 3600 * checking.run_hours(config, costs, 1.0) == pytest.approx(
        11 + 20 * 44 + 3 * 11 + 5 * 7
    )


def test_the_cache_of_all_responses_is_counted_at_full_length(tmp_path):
    from trainer.sampler.cpu import TransformersEngine

    folder = save_random_model(tmp_path / "model", layers=3)
    engine = TransformersEngine(folder, 40, [1], max_length=200)
    config = config_of("justrl", tmp_path, max_prompt_tokens=20, max_response_tokens=80)
    # 3 layers, keys and values, 1 head of 32, 4 bytes
    assert checking.cache_bytes(config, engine, 6) == 3 * 2 * 32 * 4 * 100 * 6


def test_a_check_is_no_part_of_the_recipe():
    """A run may be checked, reported and uploaded without becoming another run."""
    from trainer.run.flags import FREE

    assert {"check", "report_to", "push_to_hub"} <= FREE
    assert "reward" not in FREE
    assert json.dumps(dataclasses.asdict(config_of("justrl", "x")))
