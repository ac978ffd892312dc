"""The measurements run at toy size; the memory formula against what it describes."""

import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import formula as memory
from bench import gpu, trl_compare
from bench.formula import GB, MODELS, QWEN_1_5B, Shape


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Run a measurement's main at toy size; what it wrote, which says where it came from."""

    def run(module, *flags) -> dict:
        script, out = f"{module.__name__.replace(chr(46), chr(47))}.py", tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *map(str, flags), "--out", str(out)])
        module.main()
        result = json.loads(out.read_text())
        assert result["command"].startswith(f"python -m {module.__name__} ")
        assert {"python", "torch", "transformers", "commit"} <= result["versions"].keys()
        assert result["machine"].keys() >= {"cpu", "cores"}
        return result

    return run


# --- the memory formula ---


R1_1_5B, QWEN_4B, QWEN_8B = (
    next(shape for name, (shape, _, _) in MODELS.items() if part in name)
    for part in ("R1", "4B", "8B")
)
SHAPES = {
    "Qwen2.5-1.5B": (QWEN_1_5B, 1_543_714_304),
    "R1-Distill-1.5B": (R1_1_5B, 1_777_088_000),
    "Qwen3-4B-Base": (QWEN_4B, 4_022_468_096),
    "Qwen3-8B-Base": (QWEN_8B, 8_190_735_360),
    "Qwen2.5-0.5B": (Shape(896, 4864, 24, 14, 2, 64, 151936, tied=True), 494_032_768),
    "toy": (gpu.SMALL, None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_model(name):
    shape, published = SHAPES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config())
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert memory.parameters(shape) == counted == (published or counted)


def test_a_shape_is_read_from_a_config():
    for shape in (QWEN_1_5B, QWEN_4B):
        assert Shape.of(shape.config()) == shape


def test_state_is_16_bytes_a_parameter_shared_by_the_ranks():
    assert memory.state_bytes(QWEN_1_5B, ranks=1) == 16 * 1_543_714_304
    assert memory.state_bytes(QWEN_1_5B, ranks=8) == 2 * 1_543_714_304


def test_key_value_cache_is_28_kib_a_token():
    assert memory.kv_bytes_per_token(QWEN_1_5B) == 28 * 1024


def test_the_peak_grows_with_tokens_by_the_activations_of_a_token():
    """Where activations are the peak, and not the head: 86 kB of checkpoints, 138 kB of a layer."""
    per_token = memory.checkpoint_bytes_per_token(QWEN_1_5B) + memory.layer_bytes_per_token(
        QWEN_1_5B
    )
    grown = memory.training_peak(QWEN_1_5B, 65536, 1) - memory.training_peak(QWEN_1_5B, 32768, 1)
    assert grown == 32768 * per_token
    assert memory.checkpoint_bytes_per_token(QWEN_1_5B) == 29 * 1536 * 2


def test_the_largest_micro_batch_fits_and_the_next_does_not():
    tokens = memory.largest_micro_batch(QWEN_1_5B, 16384, 80e9, ranks=1, reference=True)
    assert (
        memory.training_peak(QWEN_1_5B, tokens, 1)
        <= 80e9
        < memory.training_peak(QWEN_1_5B, tokens + 1024, 1)
    )


def test_what_does_not_fit_is_zero():
    # 25 GB of state alone.
    assert memory.largest_micro_batch(QWEN_1_5B, 4096, 24e9, ranks=1, reference=False) == 0
    assert memory.largest_micro_batch(QWEN_1_5B, 4096, 24e9, ranks=8, reference=False) >= 4096
    # Less than one sequence.
    assert memory.largest_micro_batch(QWEN_1_5B, 10**6, 80e9, ranks=8, reference=False) == 0


def test_offloading_takes_the_state_off_the_gpu():
    """The papers' 1.5B on one GPU of 24 GB, and Lite PPO's 4B on one of 80 GB."""
    assert memory.largest_micro_batch(R1_1_5B, 16384, 24 * GB, 1, False) == 0
    assert memory.largest_micro_batch(R1_1_5B, 16384, 24 * GB, 1, False, offload=True) >= 16384
    assert memory.largest_micro_batch(QWEN_4B, 9216, 80 * GB, 1, False) == 0
    assert memory.largest_micro_batch(QWEN_4B, 9216, 80 * GB, 1, False, offload=True) >= 9216
    state = memory.training_peak(R1_1_5B, 16384, 1) - memory.training_peak(
        R1_1_5B, 16384, 1, offload=True
    )
    assert state >= memory.state_bytes(R1_1_5B, 1)  # and AdamW's temporary
    saved = memory.host_bytes(R1_1_5B, 1, 1, True, False) - memory.host_bytes(
        R1_1_5B, 1, 1, False, False
    )
    assert saved == memory.state_bytes(R1_1_5B, 1), "what leaves the GPU is in the host's memory"


def test_a_whole_gradient_is_kept_where_it_is_a_tenth_of_the_gpu():
    assert memory.reduced_once(R1_1_5B, 8, 80 * GB)
    assert not memory.reduced_once(R1_1_5B, 1, 80 * GB)
    assert not memory.reduced_once(R1_1_5B, 8, 40 * GB)
    assert not memory.reduced_once(QWEN_4B, 8, 80 * GB)
    more = memory.training_peak(R1_1_5B, 16384, 8, 80 * GB) - memory.training_peak(
        R1_1_5B, 16384, 8, 40 * GB
    )
    assert more == 4 * memory.parameters(R1_1_5B)


def test_the_largest_share_leaves_the_trainer_its_state():
    share = memory.largest_share(R1_1_5B, 1, 80 * GB)
    assert 0.35 < share < 1
    assert memory.sampling_peak(R1_1_5B, 1, 80 * GB, share) <= 80 * GB
    assert memory.sampling_peak(R1_1_5B, 1, 80 * GB, share + 0.05) > 80 * GB
    assert memory.engine_tokens(R1_1_5B, 80 * GB, share) > memory.engine_tokens(R1_1_5B, 80 * GB)


def test_memory_writes_the_tables(bench):
    result = bench(memory)
    assert result["what"] == "computed, not measured on a GPU"
    lines = result["micro_batch"].splitlines()
    assert len(lines) == 2 + 4 * len(MODELS) and all(line.count("|") == 7 for line in lines)
    assert len(result["engine"].splitlines()) == 2 + 4 * 3
    text = (ROOT / "docs" / "running.md").read_text()
    for name in ("micro_batch", "engine", "host"):
        assert result[name] in text, "docs/running.md has the tables as they are computed"


# --- measurements ---


def test_gpu_measures_an_engine(tmp_path):
    gpu.make_model(tmp_path, gpu.SMALL, "cpu", longest=512)
    arguments = SimpleNamespace(small=True, engine="transformers", device="cpu")
    result = gpu.engine(arguments, str(tmp_path), gpu.SMALL)
    assert {
        "seconds_sync",
        "seconds_sleep",
        "seconds_wake_and_sync",
        "tokens_per_second plain",
    } <= result.keys()
    masked = math.log(1 - gpu.padded_rows(gpu.SMALL) / gpu.SMALL.vocabulary)
    assert result["logp_gap"] == pytest.approx(-masked, abs=2e-4)  # nearly uniform


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_gpu_runs_all_parts_on_a_cpu(bench, tmp_path, engine):
    """With a real pretrained model where there is one (tests/test_real_model.py says which)."""
    model = ROOT.parent / "smollm2"
    flags = ["--pretrained", model] if model.exists() else []
    result = bench(gpu, "--device", "cpu", "--small", "--engine", engine, *flags)
    parts = set(gpu.PARTS) - ({"pretrained"} if not flags else set())
    assert result.keys() >= parts
    for part in parts:
        assert "error" not in result[part] and result[part]["seconds_part"] < gpu.LIMITS[part]
        if part in gpu.LEARNS:
            assert {"0", "2"} <= result[part]["held_out"].keys()
            assert (tmp_path / f"out_{part}.png").read_bytes().startswith(b"\x89PNG")
    assert result["engine"]["engine"] == engine
    assert result["step"]["seconds"].keys() >= {
        "seconds_rollout",
        "seconds_update",
        "seconds_sync",
        "seconds_step",
    }


def test_a_failing_part_leaves_the_others_and_no_process(bench, monkeypatch, tmp_path):
    """A part that takes too long is ended with all that it has started."""
    folder = tmp_path / "sleeper"
    folder.mkdir()
    monkeypatch.setitem(gpu.LIMITS, "engine", 5)
    monkeypatch.setattr(gpu, "SCRIPT", [sys.executable, str(folder / "sleeper.py")])
    (folder / "sleeper.py").write_text(SLEEPER)
    with pytest.raises(SystemExit, match="engine failed"):
        bench(gpu, "--device", "cpu", "--small", "--parts", "engine", "train")
    result = json.loads((tmp_path / "out.json").read_text())
    assert "not done after 5 s" in result["engine"]["error"] and result["not_a_measurement"]
    assert result["train"]["mfu"] is None
    grandchild = int((folder / "pid").read_text())
    state = Path(f"/proc/{grandchild}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


# Stands in for bench/gpu.py: one part starts a process and waits, the other is done at once.
SLEEPER = """
import pathlib, subprocess, sys, time
values = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if values["--part"] == "engine":
    child = subprocess.Popen(["sleep", "600"])
    pathlib.Path(__file__).with_name("pid").write_text(str(child.pid))
    child.wait()
pathlib.Path(values["--out"]).write_text('{"mfu": null}')
"""


def test_the_padded_rows_of_the_gpu_benchmark_are_free(tmp_path):
    """As a real model's are: else the benchmark would not meet what a real model meets."""
    gpu.make_model(tmp_path, gpu.SMALL, "cpu", longest=512)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert gpu.SMALL.vocabulary - len(tokenizer) == gpu.padded_rows(gpu.SMALL) > 0
    assert gpu.padded_rows(QWEN_1_5B) == 271


def test_the_word_problems_are_right_and_held_out_ones_are_new():
    train, held_out = gpu.word_problems(500, seed=0), gpu.word_problems(50, 1, held_out=True)
    for row in train[:50]:
        numbers = [int(word) for word in re.findall(r"\d+", row["prompt"][-1]["content"])]
        possible = {sum(numbers), numbers[0] - numbers[-1], numbers[0] * numbers[-1]}
        assert int(row["answer"]) in possible
    seen, new = ({row["prompt"][-1]["content"] for row in rows} for rows in (train, held_out))
    assert not seen & new


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_says_when_there_is_none(bench):
    with pytest.raises(SystemExit, match="--device cpu --small"):
        bench(gpu)


def test_training_flops():
    """A 1.5B model at 16k tokens: 6 N a token, and a third as much again for attention."""
    flops = gpu.training_flops(QWEN_1_5B, sequences=1, length=16384)
    weights = 6 * 1_543_714_304 * 16384
    # Two products of 2 operations with each earlier token.
    attention = 3 * 28 * 12 * 4 * 128 * sum(range(16384))
    assert flops == pytest.approx(weights + attention, rel=1e-4)
    untied = Shape(**(vars(QWEN_1_5B) | {"tied": False}))
    assert gpu.training_flops(untied, 1, 16384) == flops  # the embedding is a look-up


# --- against TRL ---


def test_trl_compare_needs_a_python_with_trl(bench, tmp_path):
    with pytest.raises(SystemExit, match="--trl_python"):
        bench(trl_compare, "--trl_python", tmp_path / "none")


def test_phases_leave_out_the_first_step():
    steps = [{"update": 9.0}, {"update": 1.0}, {"update": 2.0}, {"update": 3.0}]
    assert trl_compare.phases(steps) == {"update": 2.0}


@pytest.mark.slow
def test_trl_compare_measures_both_sides(bench):
    trl_python = ROOT.parent / "venv-trl" / "bin" / "python"
    if not trl_python.exists():
        pytest.skip("needs a python with TRL at ../venv-trl, see bench/trl_compare.py")
    flags = [
        "--prompts", 4, "--trl_micro_batch", 8, "--rounds", 1, "--steps", 2, "--trl_python",
        trl_python,
    ]  # fmt: skip
    result = bench(trl_compare, *flags)
    assert result["ratios"].keys() == {"rollout", "logps", "update", "step"}
    assert result["trl_versions"]["trl"]
    assert all(sides["ours"]["tokens"] > 0 for sides in result["by_round"])


def test_shipped_results_name_their_origin():
    for path in (ROOT / "bench" / "results").glob("*.json"):
        assert {"command", "versions", "machine"} <= json.loads(path.read_text()).keys(), path.name
