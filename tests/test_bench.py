"""The measurements run at toy size; sizes and estimates against what they describe."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer

import justrl
from bench import estimate, gpu, trl_compare
from bench.formula import config_of, engine_tokens, kv_bytes_per_token, parameters, training_flops
from lab import table1


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


# --- the sizes of models ---


PUBLISHED = {
    "DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000, "Qwen3-0.6B-Base": 596_049_920,
    "Qwen3-4B-Base": 4_022_468_096, "Qwen3-8B-Base": 8_190_735_360,
}  # fmt: skip
R1 = config_of("DeepSeek-R1-Distill-Qwen-1.5B")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_model(name):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(name))
    assert parameters(config_of(name)) == model.num_parameters() == PUBLISHED[name]


def test_key_value_cache_is_28_kib_a_token():
    assert kv_bytes_per_token(R1) == 28 * 1024
    assert engine_tokens(R1, 80, 0.35) == (28e9 - 2 * 1_777_088_000 - 2e9) // (28 * 1024)
    assert engine_tokens(R1, 24, 0.1) == 0


# --- on a GPU ---


def arguments_of(**changes):
    given = {"small": True, "engine": "transformers", "device": "cpu", "model": "", "part": "tiny"}
    return SimpleNamespace(**given | changes)


def test_gpu_measures_an_engine(tmp_path):
    """With padded rows that are free, as a real model's are."""
    gpu.make_model(tmp_path, gpu.SMALL_MODEL, longest=512)
    rows = config_of(gpu.SMALL_MODEL).vocab_size
    padded = rows - len(AutoTokenizer.from_pretrained(tmp_path))
    assert padded == gpu.padded_rows(rows) > 0 and gpu.padded_rows(151_936) == 271
    result = gpu.engine(arguments_of(model=str(tmp_path)))
    assert result.keys() >= {"seconds_sync", "seconds_wake_and_sync", "tokens_per_second"}
    # Nearly uniform
    assert result["logp_gap"] == pytest.approx(-math.log(1 - padded / rows), abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_gpu_runs_all_parts_on_a_cpu(bench, tmp_path, engine):
    result = bench(gpu, "--device", "cpu", "--small", "--engine", engine)
    for part in gpu.PARTS:
        assert "error" not in result[part] and result[part]["seconds_part"] < gpu.LIMITS[part]
    assert {"0", "2"} <= result["tiny"]["held_out"].keys()
    assert (tmp_path / "out_tiny.png").read_bytes().startswith(b"\x89PNG")
    assert result["engine"]["engine"] == engine
    measured = {f"seconds_{part}" for part in ("rollout", "update", "sync", "step")}
    assert result["step"]["seconds"].keys() >= measured


def test_a_part_that_hangs_is_ended_and_what_it_has_written_counts(bench, monkeypatch, tmp_path):
    """With all that it has started; the others run, in the order in which they decide."""
    folder = tmp_path / "sleeper"
    folder.mkdir()
    monkeypatch.setattr(gpu, "LIMITS", gpu.LIMITS | {"engine": 2, "tiny": 2})
    monkeypatch.setattr(gpu, "SCRIPT", [sys.executable, str(folder / "sleeper.py")])
    (folder / "sleeper.py").write_text(SLEEPER)
    with pytest.raises(SystemExit, match="engine, tiny failed"):
        bench(gpu, "--device", "cpu", "--small", "--parts", "tiny", "train", "engine")
    result = json.loads((tmp_path / "out.json").read_text())
    assert [part for part in result if part in gpu.PARTS] == ["engine", "train", "tiny"]
    assert "not done after 2 s" in result["engine"]["error"] and result["not_a_measurement"]
    assert "error" not in result["train"] and result["train"]["mfu"] is None
    assert "not done after 2 s" in result["tiny"]["error"]
    assert result["tiny"]["steps"] == 2 and result["tiny"]["seconds"] == {"seconds_step": 2.0}
    grandchild = int((folder / "pid").read_text())
    state = Path(f"/proc/{grandchild}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


# Stands in for bench/gpu.py: engine starts a process and waits, tiny hangs at justrl.py's exit.
SLEEPER = """
import json, pathlib, subprocess, sys, time
*_, part, _, _, _, out = sys.argv
out = pathlib.Path(out)
if part == "engine":
    child = subprocess.Popen(["sleep", "600"])
    pathlib.Path(__file__).with_name("pid").write_text(str(child.pid))
    child.wait()
out.mkdir()
if part == "train":
    (out / "result.json").write_text('{"mfu": null}')
else:
    row = {"accuracy": 0.5, "seconds_step": 3.0, "seconds_evaluate": 1.0}
    rows = [json.dumps(row | {"step": step}) for step in (1, 2)]
    (out / "metrics.jsonl").write_text("\\n".join(rows))
    time.sleep(600)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_says_when_there_is_none(bench):
    with pytest.raises(SystemExit, match="--device cpu --small"):
        bench(gpu)


def test_training_flops_are_those_that_torch_counts():
    """On tensors without memory; torch counts attention as if it were not causal. 6 operations a
    weight and token, but for an embedding that is not the head: a look-up.
    """
    model = config_of("toy", hidden_size=256, intermediate_size=768, num_hidden_layers=3)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(model, attn_implementation="eager")
        ids = torch.zeros(2, 100, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        built(input_ids=ids).logits.sum().backward()
    ours = training_flops(model, sequences=2, length=100)
    attention = 3 * 2 * 2 * 100**2 * model.hidden_size * model.num_hidden_layers
    assert counter.get_total_flops() == pytest.approx(ours + attention, rel=0.01)
    tied = config_of("DeepSeek-R1-Distill-Qwen-1.5B", tie_word_embeddings=True)
    assert training_flops(tied, 1, 16384) == training_flops(R1, 1, 16384)


# --- how long a run takes ---


def test_a_step_takes_half_the_time_on_twice_the_gpus_and_longer_where_groups_are_dropped():
    def seconds(config, gpus=1):
        return estimate.step_seconds(config, R1, 4000, estimate.CARDS["H100"], gpus)

    many, few = (justrl.Config(prompts_per_step=count) for count in (512, 256))
    assert seconds(many, gpus=2) == pytest.approx(seconds(few))
    assert seconds(justrl.Config(offload=True)) > seconds(few)
    dapo = table1.Config(dynamic_sampling="resample")
    assert seconds(table1.Config()) == seconds(few) < seconds(dapo)


def test_an_estimate_is_a_table_of_cards_and_the_page_has_it(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", torch.cuda.is_available)
    monkeypatch.setattr(sys, "argv", ["bench/estimate.py", "justrl.py", "--mean", "4700"])
    estimate.main()
    first, table = capsys.readouterr().out.split("\n\n", 1)
    assert first == "justrl.py: 4380 steps, responses of 4,700 tokens, estimated"
    assert "| RTX 4090, 24 GB | does not fit | 51 to 206 days |" in table
    assert table in (ROOT / "docs" / "running.md").read_text()
    monkeypatch.setattr(sys, "argv", ["bench/estimate.py", "justrl.py", "--tiny"])
    estimate.main()
    assert "| H200, 141 GB |" in capsys.readouterr().out
    for script in ("just_rl.py", "evaluate.py"):
        monkeypatch.setattr(sys, "argv", ["bench/estimate.py", script])
        with pytest.raises(SystemExit, match=f"there is no recipe {script}"):
            estimate.main()


def test_shipped_results_name_their_origin():
    for path in (ROOT / "bench" / "results").glob("*.json"):
        assert {"command", "versions", "machine"} <= json.loads(path.read_text()).keys(), path.name


# --- against TRL ---


def test_the_comparison_with_trl_needs_a_python_with_trl(bench, tmp_path):
    with pytest.raises(SystemExit, match="--trl_python"):
        bench(trl_compare, "--trl_python", tmp_path / "none")


@pytest.mark.slow
def test_a_step_takes_less_a_token_than_trls(bench):
    trl_python = ROOT.parent / "venv-trl" / "bin" / "python"
    if not trl_python.exists():
        pytest.skip("needs a python with TRL at ../venv-trl, see bench/trl_compare.py")
    assert bench(trl_compare, "--rounds", 1, "--trl_python", trl_python)["median"] > 1
