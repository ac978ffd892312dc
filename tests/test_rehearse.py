"""bench/rehearse.py: the scripts' own main on imaginary GPUs, at short lengths and two layers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

pytestmark = pytest.mark.skipif(
    torch.version.cuda is not None or shutil.which("g++") is None,
    reason="needs the CPU build of torch, and g++",
)
SHORT = "--layers 2 --max_prompt_tokens 64 --max_response_tokens 64 --eval_max_tokens 64 "
SHORT += "--samples_per_prompt 4 --tokens_per_micro_batch 256"
FEW = f"{SHORT} --updates_per_step 1 --eval_every 0"
ONE = f"{FEW} --prompts_per_step 1 --tokens_per_micro_batch 4096"  # micro-batch of an update
# {what: (the command, the steps that its runs end with, whether the last rank too)}
CASES = {
    "prorl": (f"prorl.py {ONE}", [1, 2], False),
    "two ranks": (f"justrl.py --ranks 2 {FEW}", [1], False),
    "offload": (f"liteppo.py --offload {ONE}", [1], False),
    "evaluate": ("evaluate.py --layers 2 --max_tokens 64", [1], False),
    "wrong device": (f"wrong_device.py {ONE}", [1], False),
    "wrong flag": ("justrl.py --temprature 1", [1], False),
}
DRIVER = """
import json, sys
from bench import rehearse
for name, (command, runs, others) in json.loads(sys.argv[1]).items():
    arguments, flags = rehearse.arguments_of(command.split())
    for steps, rank, facts in rehearse.rehearsals(arguments, flags, runs, others):
        print(json.dumps([name, steps, rank, facts]), flush=True)
"""


def rehearsed(cases, folder) -> dict:
    """{(case, step, rank): facts}, from one process that imports everything once."""
    right = (ROOT / "justrl.py").read_text()
    wrong = right.replace("* loss_M).sum()", "* loss_M.cpu()).sum()")
    assert wrong != right
    (folder / "wrong_device.py").write_text(wrong)
    command = [sys.executable, "-c", DRIVER, json.dumps(cases)]
    environment = {"PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(Path.home()), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {(name, steps, rank): facts for name, steps, rank, facts in rows}


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return rehearsed(CASES, tmp_path_factory.mktemp("rehearsal"))


def stages(facts):
    return {stage for stage, *_ in facts["peaks"]}


def peak(facts, stage):
    return max(gpu for name, _, gpu, _ in facts["peaks"] if name == stage)


def test_each_recipe_runs_whole_on_imaginary_gpus(facts):
    """prorl.py also continues its checkpoint, after a reset that has dropped AdamW's moments."""
    for run in [("prorl", 1, 0), ("prorl", 2, 0), ("two ranks", 1, 0), ("offload", 1, 0)]:
        assert not facts[run]["fault"], facts[run]["fault"]
        loop = {"start", "resume", "rollout", "logps", "update", "sync", "save"}
        assert stages(facts[run]) >= loop
    assert peak(facts["prorl", 2, 0], "resume") > 0
    assert not facts["evaluate", 1, 0]["fault"], facts["evaluate", 1, 0]["fault"]


def test_vllm_sleeps_while_the_trainer_works(facts):
    for found in (facts["prorl", 1, 0], facts["offload", 1, 0]):
        awake = {stage: set() for stage in stages(found)}
        for stage, is_awake, *_ in found["peaks"]:
            awake[stage].add(is_awake)
        assert awake["logps"] == awake["update"] == {False}
        assert True in awake["rollout"] and True in awake["save"]


def test_offloading_takes_the_state_off_the_gpu(facts):
    two_ranks, offload = facts["two ranks", 1, 0], facts["offload", 1, 0]
    assert peak(offload, "rollout") < 0.1 * peak(two_ranks, "rollout")
    assert max(host for *_, host in offload["peaks"]) > 10 * peak(offload, "rollout")


def test_a_tensor_on_the_wrong_device_is_caught_as_on_a_gpu(facts):
    assert "wrong_device.py" in (fault := facts["wrong device", 1, 0]["fault"])
    assert "cuda:0 and cpu" in fault


@pytest.mark.slow
def test_a_wrong_flag_is_told_without_a_traceback(facts):
    usage, sentence = facts["wrong flag", 1, 0]["fault"].splitlines()
    assert usage.startswith("usage: justrl.py") and "did you mean --temperature?" in sentence


def test_the_paper_s_run_at_full_size(tmp_path):
    """28 layers, 2 x 16,384 tokens: as docs/running.md has it, and as a few layers foretell it. And
    what the default tests leave out: the lab, rank 7 of 8.
    """
    cases = {"full": ("justrl.py", [1], False), "ranks": (f"prorl.py --ranks 8 {FEW}", [1], True)}
    cases["table1"] = (f"lab.table1 {ONE}", [1], False)
    cases |= {str(layers): (f"justrl.py --layers {layers}", [1], False) for layers in (3, 4)}
    found = rehearsed(cases, tmp_path)
    for facts in found.values():
        assert not facts["fault"], facts["fault"]
    first, last = found["ranks", 1, 0], found["ranks", 1, 7]
    assert peak(first, "update") == pytest.approx(peak(last, "update"), rel=1e-3)
    full, few, more = (found[name, 1, 0] for name in ("full", "3", "4"))
    row = "| R1-Distill-Qwen-1.5B | 9.0 / 1.9 | 37.4 / 21.8 |"
    assert row in (ROOT / "docs" / "running.md").read_text()
    for stage, gigabytes in (("update", 37.4), ("sync", 21.8)):
        assert peak(full, stage) == pytest.approx(gigabytes * 1e9, rel=0.01)
    for stage in stages(full):
        added = peak(more, stage) - peak(few, stage)
        assert peak(full, stage) == pytest.approx(peak(few, stage) + 25 * added, rel=0.01)


def test_without_a_cpu_build_it_says_so_in_one_sentence(tmp_path):
    version = tmp_path / "torch" / "version.py"
    version.parent.mkdir()
    version.write_text("cuda: Optional[str] = '12.9'")
    (tmp_path / "torch" / "__init__.py").write_text("")
    command = [sys.executable, "-c", "import bench.imaginary"]
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "bench.rehearse needs the CPU build of torch: pip install -r requirements-cpu.txt\n"
    )
