"""What surrounds a run: a copied recipe is at home, and nothing in it is without effect."""

import errno
import importlib
import json
import math
import os
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NO_TOKENIZER, ROOT, load, random_rollouts
from huggingface_hub import constants

import justrl
from trainer import network
from trainer.errors import Refused
from trainer.policy.policy import rectangle, set_learning_rate
from trainer.run.checkpoint import check_whole, latest_checkpoint, load_checkpoint, save_checkpoint
from trainer.run.claim import claim, code_digests, recipe_file, with_neighbours
from trainer.run.files import read_jsonl
from trainer.run.launch import _sentence, leave, model_folder
from trainer.run.metrics import step_metrics
from trainer.run.run import Run, finite, plain

FEW = dict(steps=1, prompts_per_step=2, samples_per_prompt=2, updates_per_step=1, eval_every=0)
FEW |= dict(max_response_tokens=8, eval_max_tokens=8)
FLAGS = [f"--{name}={value}" for name, value in FEW.items()]
COPY = (ROOT / "justrl.py").read_text().replace('RECIPE = "justrl"', 'RECIPE = "mine"')
LOGGED = 'metrics["mean"], metrics["most"] = advantages.abs().mean(), rewards_P_G.numpy().max()'


@pytest.fixture
def copy(tmp_path):
    """copy(line) -> a copied recipe in a folder of one's own, with this line before the log."""

    def copy(line: str):
        script = tmp_path / "experiments" / "mine.py"
        script.parent.mkdir(exist_ok=True)
        log = "        run.log(step, metrics)\n"
        assert COPY.count(log) == 1
        script.write_text(COPY.replace(log, f"        {line}\n{log}"))
        return script

    return copy


def test_a_copied_recipe_runs_to_its_end_and_a_change_of_it_is_noticed(copy, start, tmp_path):
    own, out = tmp_path / "const.py", tmp_path / "run"
    own.write_text("def reward(texts, answers, rows):\n    return [0] * len(rows)")
    flags = ["--tiny", *FLAGS, f"--reward={own}:reward", "--out", out]
    printed = start(copy(LOGGED), *flags).output()
    (row,) = read_jsonl(out / "metrics.jsonl")
    assert row["mean"] == row["most"] == 0.0
    assert "step 1: in every group all answers got the same reward" in printed
    assert "Nothing was learnt in 1 of them" in printed
    card = (out / "checkpoints" / "step_000001" / "README.md").read_text()
    assert "python mine.py --tiny=True" in card and "JustRL (arXiv 2512.16649)" in card

    assert "Nothing is left" in start(copy(LOGGED), *flags, "--steps=1").output()
    own.write_text(own.read_text().replace("0", "1"))
    done = start(copy("pass"), *flags, "--steps=2").wait()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{own}, {tmp_path}/experiments/mine.py changed since" in done.stderr
    assert "losses.py" not in done.stderr and f"add --out {out}-2" in done.stderr


def test_a_slip_in_a_recipe_shows_its_line(copy, start, tmp_path):
    script = copy("first, second = [1, 2, 3]")
    done = start(script, "--tiny", *FLAGS, "--out", tmp_path / "run").wait()
    assert done.returncode == 1
    assert f'"{script}", line' in done.stderr
    assert done.stderr.rstrip().endswith("ValueError: too many values to unpack (expected 2)")


def test_main_twice_in_one_process_and_what_it_gives_back(tmp_path, capsys, monkeypatch):
    def whole_numbers(rollouts, problems, config):
        return [(i % 2 == 0, i % 2) for i in range(len(rollouts))]

    monkeypatch.setattr(justrl, "reward", whole_numbers)
    config = justrl.Config(**justrl.TINY | FEW | {"out": str(tmp_path / "run")})
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    justrl.main(config)
    assert "before     after" in capsys.readouterr().out
    config.steps = 2
    justrl.main(config)
    out = capsys.readouterr().out
    assert "Continuing" in out and "no file" not in out
    code = json.loads((tmp_path / "run" / "config.json").read_text())["code"]
    assert code.keys() == {"justrl.py", "losses.py", "rewards.py"}
    assert recipe_file(type("Config", (), {"__module__": "builtins"})()) is None  # as in a notebook
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_recipe_may_be_started_in_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(COPY)
    monkeypatch.chdir(tmp_path)  # where torch's "_classes.py" would be, if there were one
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # that of another test
    mine = importlib.import_module("mine")
    names = {Path(name).name for name in code_digests(mine.Config())}
    assert names == {"mine.py", "losses.py", "rewards.py"}


def test_code_is_what_a_script_imports_from_its_own_folder(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("import json, helpers\nfrom trainer import data\n")
    (tmp_path / "helpers.py").write_text("def late():\n    from .losses import x\n")
    for name in ("losses.py", "data.py", "other.py"):  # data.py is not trainer/data.py
        (tmp_path / name).write_text("")
    assert {path.name for path in with_neighbours(mine)} == {"mine.py", "helpers.py", "losses.py"}
    mine.write_text("import losses\n")
    with pytest.raises(Refused, match=r"losses\.py has no effect, because mine\.py"):
        with_neighbours(mine)


def test_without_a_checkpoint_a_run_begins_again_with_other_code(tmp_path):
    mine = {"recipe": "mine", "seed": 1}
    claim(tmp_path, mine | {"seed": 2}, {"mine.py": "before"})
    claim(tmp_path, mine, {"mine.py": "before"})
    (tmp_path / "metrics.jsonl").write_text("")
    claim(tmp_path, mine, {"mine.py": "repaired"})
    (tmp_path / "checkpoints" / "step_000001").mkdir(parents=True)
    claim(tmp_path, mine, {"mine.py": "repaired"})
    with pytest.raises(Refused, match=r"mine\.py changed since the run in .* began"):
        claim(tmp_path, mine, {"mine.py": "before"})
    with pytest.raises(Refused, match=r"\(recipe: 'mine' there, 'yours' here\); add --out"):
        claim(tmp_path, {"recipe": "yours", "seed": 2}, {"mine.py": "before"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("config.json", '{"model_type": "llama"}'), ("config.json", '[{"tor')),
        *(("metrics.jsonl", "1"), ("rollouts", "1"), ("curves.png", "")),
    ],
)
def test_a_folder_of_another_program_is_left_as_it_is(tmp_path, name, text):
    (tmp_path / name).write_text(text)  # --out with the folder of a model, say
    with pytest.raises(Refused, match="holds files that no run wrote"):
        Run("justrl", justrl.Config(**justrl.TINY | {"out": str(tmp_path)}))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, text)]


def test_a_step_that_learns_nothing_or_is_not_saved_is_said(tmp_path, capsys):
    run = Run("justrl", justrl.Config(**justrl.TINY | {"out": str(tmp_path)}))
    for step in run.steps(0):
        with pytest.raises(ValueError, match="shorter"):  # groups were dropped, their problems not
            run.keep_rollouts(step, [None], [], torch.ones(1, 1), [], (0.2, 0.2))
        run.log(step, {"grad_norm": 0.0})  # not what a step measures, so it is not in the bar
        break
    assert "step 1: the gradient is 0, so nothing is learnt" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="step 1, the last one, is not saved"):
        run.finish(None)


def test_what_is_logged_is_one_number_of_any_kind_or_text():
    numbers = [
        2, 2.0, np.int64(2), np.float32(2), np.array([2]), torch.tensor(2), torch.ones(1) * 2,
    ]  # fmt: skip
    assert all(json.dumps(plain("x", number)) in ("2", "2.0") for number in numbers)
    assert plain("event", "reset") == "reset"
    for wrong in (torch.ones(2), np.ones(2), None, {}):
        with pytest.raises(TypeError, match="the metric 'x' is not one number"):
            plain("x", wrong)


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, amsgrad=True),
    "adafactor": torch.optim.Adafactor,
    "muon": lambda parameters: torch.optim.Muon([p for p in parameters if p.ndim == 2]),
}


def test_what_a_checkpoint_could_not_bring_back_is_refused_at_once(random_policy_dir):
    policy = load(random_policy_dir)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    check_whole({"step": 1, "seen": {"3": [1, 0.5, None]}, "reference": policy}, policy, optimizer)
    for wrong in (torch.tensor(1.0), {3: 1}, (1, 2), {1}, random_rollouts(1)):
        with pytest.raises(Refused, match=r"state\['seen'\] would not come back"):
            check_whole({"seen": wrong}, policy, optimizer)
    kept = optimizer.state[next(policy.parameters())] = {"history": [1, 2]}
    with pytest.raises(Refused, match="SGD keeps a list as 'history'"):
        check_whole({}, policy, optimizer)
    kept.clear()
    value = torch.nn.Linear(64, 1)
    optimizer.add_param_group({"params": value.parameters(), "lr": 1.0})
    with pytest.raises(ValueError, match="have rates of their own"):
        set_learning_rate(optimizer, 0.1, 1, 0)
    with pytest.raises(Refused, match="a tensor that is not in the policy"):
        check_whole({}, policy, optimizer)
    policy.value = value
    check_whole({}, policy, optimizer)
    torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(Refused, match="scheduler begins again"):
        check_whole({}, policy, optimizer)


def test_what_the_loop_must_set_of_a_micro_batch_is_named():
    (rollout,) = random_rollouts(1)
    micro = rectangle([rollout], torch.ones(1), torch.ones(1, 12), torch.device("cpu"))
    micro.old_logps_M = micro.new_logps_M = micro.engine_logps_M
    logps_M = micro.engine_logps_M
    for wrong in (None, logps_M.mean(), logps_M.clone().requires_grad_()):
        micro.entropy_M = wrong
        with pytest.raises(ValueError, match=r"micro\.entropy_M must be one detached number"):
            step_metrics([[rollout]], [[micro]], [1.0], None, (0.2, 0.2))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_any_optimizer_survives_a_resume(name, random_policy_dir, tmp_path):
    def begin():
        policy = load(random_policy_dir)
        policy.value = torch.nn.Linear(64, 1)  # as a student adds it
        return policy, OPTIMIZERS[name](list(policy.parameters()))

    def train(policy, optimizer, seed):
        torch.manual_seed(seed)
        for parameter in policy.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        return [parameter.detach().clone() for parameter in policy.parameters()]

    policy, optimizer = begin()
    train(policy, optimizer, 0)
    save_checkpoint(tmp_path, {"step": 1, "data": ""}, policy, NO_TOKENIZER, optimizer, keep=1)
    expected = train(policy, optimizer, 1)
    policy, optimizer = begin()
    saved = tmp_path / "checkpoints" / "step_000001"
    load_checkpoint(saved, {"step": 0, "data": ""}, policy, optimizer)
    assert all(map(torch.equal, train(policy, optimizer, 1), expected))
    policy.model.adapter = torch.nn.Linear(2, 2)  # no damage: it would be no help to delete it
    with pytest.raises(Refused, match=r"^the weights do not fit the model: adapter"):
        load_checkpoint(saved, {"step": 0, "data": ""}, policy, optimizer)


def test_a_rank_with_vllm_leaves_without_taking_it_apart(monkeypatch):
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    leave()
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    leave()
    leave(3)
    assert ends == [0, 3]


def test_a_stopped_run_under_torchrun_is_told_of_its_deadline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    run = Run("justrl", justrl.Config(**justrl.TINY | {"out": str(tmp_path)}))
    before = signal.getsignal(signal.SIGTERM)
    for _ in run.steps(0):
        os.kill(os.getpid(), signal.SIGTERM)
        run.ended = True
    assert run.stopped_by == signal.SIGTERM == 15 and signal.getsignal(signal.SIGTERM) == before
    assert "--shutdown-timeout 3600" in capsys.readouterr().out


def test_one_request_decides_whether_there_is_a_hub(monkeypatch, capsys):
    class Session:
        def head(self, address, timeout):
            raise OSError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(network, "get_session", Session)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    network.reach_hub.cache_clear()
    begun = time.monotonic()
    network.reach_hub()
    assert time.monotonic() - begun < 1 and constants.is_offline_mode()
    assert "cannot be reached (no route to host)" in capsys.readouterr().out
    with pytest.raises(Refused, match="no/model was never downloaded: check the network"):
        model_folder("no/model")


# --- a run whose machine fails ---


@pytest.mark.parametrize("name", ["model", "training/optimizer", "state", "config"])
@pytest.mark.parametrize("how", ["torn", "gone", "empty"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(random_policy_dir, tmp_path, name, how):
    policy, state = load(random_policy_dir), {"step": 4, "data": ""}
    optimizer = torch.optim.AdamW(policy.parameters())
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


def test_a_number_that_is_not_finite_is_named(capsys):
    good = {"reward": 1.0, "event": "reset"}
    for bad in (math.nan, math.inf, -math.inf):
        assert finite(3, good | {"own": bad}) == good
        assert capsys.readouterr().out == f"step 3: own is {bad}, so it is not logged\n"
        with pytest.raises(Refused, match=r"step 3: reward is -?(nan|inf)"):
            finite(3, {"length": 2.0, "reward": bad})


def test_a_run_killed_before_its_first_checkpoint_begins_again(start, tmp_path):
    flags = ["--tiny", "--steps", 1, "--prompts_per_step", 2, "--samples_per_prompt", 2]
    flags += ["--eval_samples", 1, "--eval_every", 1, "--out", tmp_path / "run"]
    metrics = tmp_path / "run" / "metrics.jsonl"
    killed = start("justrl", *flags, signals=(signal.SIGKILL, 0, 0)).wait()
    assert killed.returncode == -signal.SIGKILL and metrics.exists()
    start("justrl", *flags).output()
    assert [row["step"] for row in read_jsonl(metrics)] == [0, 1]


def test_a_full_disk_says_what_to_do_at_any_write():
    full = errno.ENOSPC, "No space left on device"
    what_to_do = ": make room, the same command continues the run"
    assert _sentence(OSError(*full)) == f"no space left on the disk{what_to_do}"
    assert _sentence(OSError(*full, "a.json")) == (
        f"no space left on the disk to write a.json{what_to_do}"
    )
