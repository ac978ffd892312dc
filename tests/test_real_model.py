"""A real pretrained model on real problems: SmolLM2-135M takes two JustRL steps on GSM8K.

It is looked for in ../smollm2 (lab/smollm2.py makes it out of a PyPI package). It solves next to
nothing of GSM8K, so this is about plumbing, not about learning.
"""

import json
import sys

import pytest
import torch
from conftest import ENVIRONMENT, ROOT, SHARED, python
from pyarrow.parquet import read_table
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab import real_model
from trainer.run.files import read_jsonl

MODEL, PROBLEMS = ROOT.parent / "smollm2", SHARED / "gsm8k_train.jsonl"
TRL = ROOT.parent / "venv-trl"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason="needs a pretrained model in ../smollm2"),
]
with_gsm8k = pytest.mark.skipif(not PROBLEMS.exists(), reason="needs ../shared/data")
with_trl = pytest.mark.skipif(not TRL.exists(), reason="needs a python with TRL in ../venv-trl")


@with_gsm8k
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_two_steps_of_a_real_model(tmp_path, engine, ranks):
    flags = {"model": MODEL, "data": PROBLEMS, "eval_data": PROBLEMS, "engine": engine}
    flags["out"] = tmp_path / "run"
    flags |= {"steps": 2, "prompts_per_step": 2, "samples_per_prompt": 2, "updates_per_step": 2}
    flags |= {"max_prompt_tokens": 128, "max_response_tokens": 24, "eval_every": 0}
    flags |= {"eval_max_tokens": 24}
    flags |= {"learning_rate": 1e-5, "warmup_steps": 0, "tokens_per_micro_batch": 512}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    done = python("justrl.py", *words, ranks=ranks, timeout=1500, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-4000:]
    for row in read_jsonl(tmp_path / "run" / "metrics.jsonl"):
        assert row["logp_gap"] < 1e-4 and row["logp_gap_max"] < 1e-3
        assert row["skipped_updates"] == 0
    # Transformers alone continues from what was saved.
    saved = tmp_path / "run" / "checkpoints" / "step_000002"
    model = AutoModelForCausalLM.from_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    question = [{"role": "user", "content": "What is 2 + 3?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    answer = model.generate(torch.tensor([ids]), max_new_tokens=8)
    assert answer.shape[1] > len(ids)


@with_trl
def test_trl_and_ours_train_the_real_model_on_the_same_problems(tmp_path, monkeypatch):
    few = {"steps": 2, "save_every": 1, "prompts_per_step": 2, "samples_per_prompt": 2}
    monkeypatch.setattr(real_model, "SETTINGS", real_model.SETTINGS | few)
    monkeypatch.setattr(real_model, "LIMIT", 2)
    monkeypatch.setattr(real_model, "RUNS", {"justrl": 1, "trl": 1})
    (tmp_path / "venv").symlink_to(TRL)
    losses = real_model.cold_start(str(MODEL), tmp_path / "start", steps=2, rate=3e-5)
    assert losses[1] < losses[0]
    monkeypatch.setattr(sys, "argv", ["real_model", str(tmp_path)])
    real_model.main()
    curves = json.loads((tmp_path / "results.json").read_text())
    assert curves.keys() == {"justrl", "trl"}
    for ((start, middle, end),) in curves.values():
        assert start["seconds"] < middle["seconds"] < end["seconds"]
        assert start["tokens"] < middle["tokens"] < end["tokens"]
    problems = read_jsonl(tmp_path / "trl-seed1" / "problems.jsonl")
    rollouts = (tmp_path / "justrl-seed1" / "rollouts").glob("step_*.parquet")
    ours = [row["problem"] for path in sorted(rollouts) for row in read_table(path).to_pylist()]
    assert [row["problem"] for row in problems] == list(dict.fromkeys(ours))
