"""Two ranks that do not get on: each command ends soon, with a sentence and a status above 0."""

import json
import os
import re
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import ENVIRONMENT, ROOT, python

from trainer.policy import loading
from trainer.ranks import start_ranks

SMALL = "--tiny --prompts_per_step 4 --samples_per_prompt 4 --eval_every 0 --save_every 1"
slow = pytest.mark.slow

# A recipe in which rank 1 meets a fault in its second step, as FAULT says.
FAULTY = """
import os, runpy, sys
import torch
import trainer.policy.policy, trainer.run.checkpoint

fault, rank = os.environ["FAULT"], int(os.environ["RANK"])
step = trainer.policy.policy.optimizer_step
count = 0

def faulty_step(*arguments):
    global count
    count += 1
    if count == 5 and rank == 1:
        if fault == "dies":
            os.kill(os.getpid(), 9)
        if fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        if fault == "bug":
            raise KeyError("a fault of ours")
    return step(*arguments)

def full_disk(*arguments, **options):
    raise OSError(28, "No space left on device")

trainer.policy.policy.optimizer_step = faulty_step
if fault == "disk" and rank == 0:
    trainer.run.checkpoint.save_file = full_disk
sys.argv = ["justrl.py", *sys.argv[1:]]
runpy.run_path("justrl.py", run_name="__main__")
"""


def run_ranks(*arguments, **environment):
    """Run a command on two ranks; returns (its end, seconds)."""
    start = time.monotonic()
    done = python(*arguments, ranks=2, env=ENVIRONMENT | environment)
    return done, time.monotonic() - start


def own_lines(done, script="justrl.py"):
    return [line for line in done.stderr.splitlines() if line.startswith(f"{script}: ")]


FAULTS = {
    "disk": r"cannot save .*No space left on device.*make room",
    "dies": r"rank 0 ends because another rank has ended",
    "memory": r"out of GPU memory \(CUDA out of memory\): lower --tokens_per_micro_batch",
    "bug": r"rank 0 ends because another rank has ended",
}


def check_end(done, fault, tracebacks, out):
    assert done.returncode != 0
    sentences = own_lines(done)
    assert any(re.search(FAULTS[fault], line) for line in sentences), done.stderr[-4000:]
    assert len(sentences) <= 2, "one of each rank"
    assert done.stderr.count("Traceback") == tracebacks
    assert not list((out / "checkpoints").glob("*.tmp"))


def test_a_full_disk_ends_all_ranks(start, tmp_path):
    script, out = tmp_path / "faulty.py", tmp_path / "run"
    script.write_text(FAULTY)
    done = start(script, *SMALL.split(), "--steps", 1, "--out", out, ranks=2, FAULT="disk").wait()
    check_end(done, "disk", tracebacks=0, out=out)


@slow
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_rank_with_a_fault_ends_them_all_under_torchrun(tmp_path, fault, engine):
    script, out = tmp_path / "faulty.py", tmp_path / "run"
    script.write_text(FAULTY)
    flags = [*SMALL.split(), "--steps", 3, "--engine", engine, "--out", out]
    done, seconds = run_ranks(script, *flags, FAULT=fault)
    assert seconds < 60 or os.getloadavg()[0] > 4
    # A fault of ours, and that alone, is worth a traceback, beside torchrun's own.
    check_end(done, fault, tracebacks=1 + (fault == "bug"), out=out)


BLIND = """
import os, sys
from pathlib import Path
from trainer.run.checkpoint import latest_checkpoint
from trainer.ranks import start_ranks
from trainer.run.launch import launch

def main(out):
    start_ranks()
    own = out / f"machine{os.environ['RANK']}"
    assert latest_checkpoint(out / "none yet") is None
    assert latest_checkpoint(out / "machine0").name == "step_000002"
    latest_checkpoint(own)

launch(main, Path(sys.argv[1]))
"""


def test_a_checkpoint_that_one_machine_does_not_see_is_refused_by_all(start, tmp_path):
    for step in (1, 2):
        (tmp_path / "machine0" / "checkpoints" / f"step_00000{step}").mkdir(parents=True)
    script = tmp_path / "blind.py"
    script.write_text(BLIND)
    done = start(script, tmp_path, ranks=2).wait()
    assert done.returncode != 0
    sentences = own_lines(done, "blind.py")
    assert sentences and all("not every rank sees" in line for line in sentences), done.stderr
    assert "Traceback" not in done.stderr


@slow
@pytest.mark.vllm
def test_an_evaluation_with_less_work_than_ranks_ends(tmp_path):
    flags = "tiny:aligned --benchmarks tiny/easy --limit 2 --n 2 --engine vllm --out"
    done, _ = run_ranks("--", ROOT / "evaluate.py", *flags.split(), tmp_path / "evals")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "evals" / "eval.json").read_text())["settings"]["n"]


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    return monkeypatch


def test_a_gpu_gets_expandable_segments_and_no_attention_by_cudnn(on_a_gpu):
    said = []
    on_a_gpu.setattr(torch.backends.cuda, "enable_cudnn_sdp", said.append)
    on_a_gpu.setenv("PYTORCH_CUDA_ALLOC_CONF", "")
    on_a_gpu.delenv("PYTORCH_CUDA_ALLOC_CONF")
    assert start_ranks() == torch.device("cuda", 0)
    assert said == [False] and os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "of the user's"
    start_ranks()
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "of the user's"


def test_ranks_with_different_gpus_decide_by_the_smallest(on_a_gpu):
    """Else some would wait for a sum of gradients that others do not begin."""
    own = SimpleNamespace(total_memory=10**6)
    on_a_gpu.setattr(torch.cuda, "get_device_properties", lambda: own)
    on_a_gpu.setattr(dist, "get_world_size", lambda: 2)
    policy = torch.nn.Linear(100, 100)  # a gradient of 40 kB, of 100 kB that a rank may keep
    for smallest, once in ((10**6, True), (10**5, False)):
        on_a_gpu.setattr(loading, "from_all_ranks", lambda memory, s=smallest: [memory, s])
        assert loading._may_reduce_once(policy) == once
