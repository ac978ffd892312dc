"""The problems, the cold start and the runs of lab/real_model.py (docs/real-model.md)."""

import json
import re
import sys

import pytest
import torch
from conftest import ENVIRONMENT, ROOT, SHARED, python

from lab import real_model
from rewards import strict_box
from tiny.pretrain import base_model
from trainer.data import Problem, Template, encode_prompts
from trainer.policy.pretrained import load_tokenizer
from trainer.run import kept
from trainer.run.files import read_jsonl

SPLITS = real_model.SPLITS


def test_held_out_problems_have_numbers_of_their_own():
    numbers = {split: {row["numbers"] for row in real_model.problems(split)} for split in SPLITS}
    assert numbers["train"] & numbers["form"]
    for held_out in real_model.SKILLS:
        assert numbers[held_out] and not numbers[held_out] & (numbers["train"] | numbers["form"])


def test_answers_are_right_and_problems_are_always_the_same():
    for split, (size, changes) in SPLITS.items():
        rows = real_model.problems(split)
        assert rows == real_model.problems(split)
        assert len({row["problem"] for row in rows}) == size
        for row in rows:
            first, *more = re.findall(r"\d+", row["problem"])
            verbs = re.findall("gets|finds|loses|gives", row["problem"])
            assert len(more) == len(verbs) and len(more) in changes
            total = int(first)
            for verb, number in zip(verbs, more, strict=True):
                total += int(number) * (-1 if verb in ("loses", "gives") else 1)
                assert total > 0
            assert str(total) == row["answer"]
            assert strict_box(row["work"], row["answer"]) > 0
            *sums, last = row["work"].splitlines()
            assert last == f"\\boxed{{{row['answer']}}}" and len(sums) == len(more)
            for line in sums:
                left, right = line.split("=")
                assert eval(left) == int(right)


def test_an_example_learns_the_answer_alone():
    tokenizer = load_tokenizer(base_model("aligned"))
    tokenizer.chat_template = real_model.TEMPLATE
    row = real_model.problems("form")[0]
    ids, labels = real_model.example(tokenizer, row)
    learnt = labels >= 0
    assert torch.equal(ids[learnt], labels[learnt])
    assert tokenizer.decode(ids[~learnt]) == row["problem"] + "\n"
    assert ids[-1] == tokenizer.eos_token_id


# The command with one run of one short step. Its commands are forks, as all scripts of the tests.
SHORT = """
import subprocess
import forge
from lab import real_model

def fork(command, **options):
    return forge.Popen([word for word in command if word != "-m"], **options)

subprocess.Popen, real_model.RUNS, real_model.LIMIT = fork, {"justrl": 1}, 2
real_model.SETTINGS |= dict(steps=1, save_every=1, prompts_per_step=2, samples_per_prompt=2)
real_model.main()
"""


def test_one_command_trains_evaluates_and_draws_and_the_same_command_goes_on(start, tmp_path):
    script, out = tmp_path / "short.py", tmp_path / "out"
    script.write_text(SHORT)
    losses = real_model.cold_start(base_model("aligned"), out / "start", 4, 1e-3)
    assert losses[-1] < losses[0]
    tokenizer = load_tokenizer(str(out / "start"))
    (problem,) = encode_prompts([Problem("2 + 3?", "5")], tokenizer, Template())
    assert tokenizer.decode(problem.prompt_ids) == "2 + 3?\n"

    def command() -> str:
        start(script, out).output()
        return (out / "tables.md").read_text()

    tables = command()
    ((curve,),) = json.loads((out / "results.json").read_text()).values()
    assert [point["step"] for point in curve] == [0, 1]
    assert curve[0]["seconds"] == curve[0]["tokens"] == 0
    assert curve[1]["seconds"] > 0 and curve[1]["tokens"] > 0
    (step,) = map(json.loads, (out / "steps.jsonl").read_text().splitlines())
    assert step["run"] == "justrl-seed1" and step["tokens"] == curve[1]["tokens"]
    assert "| JustRL (1) | 2 |" in tables
    assert (out / "curves.png").stat().st_size > 10_000
    ran = (out / "justrl-seed1" / "log.txt").read_text()
    assert command() == tables and (out / "justrl-seed1" / "log.txt").read_text() == ran


def curve(*scores, seconds=10.0):
    names = [f"{split} {score}" for split in real_model.SKILLS for score in real_model.SCORES]
    names += real_model.BY_SKILL
    return [
        {"step": i, "seconds": seconds * i, "tokens": 9 * i} | dict.fromkeys(names, score)
        for i, score in enumerate(scores)
    ]


def test_the_tables_have_means_with_intervals_over_seeds():
    curves = {"justrl": [curve(0.2, 0.5), curve(0.2, 0.7)], "trl": [curve(0.2, 0.3, seconds=30.0)]}
    text = real_model.tables(curves)
    assert "| cold start | 1 | 20.0 | 20.0 | 20.0 | 20.0 |" in text
    assert "| JustRL (2) | 2 | 60.0 ± 127.1 |" in text  # 12.706 standard errors of 0.1
    assert "| JustRL (2) | 60.0 ± 127.1 | 60.0 ± 127.1 | 60.0 ± 127.1 |" in text
    assert "| JustRL | 10.0 | 9 |" in text and "| TRL's GRPOTrainer | 30.0 | 9 |" in text


def test_the_page_s_tables_are_what_was_measured():
    folder = ROOT / "docs" / "figures" / "real-model"
    curves = json.loads((folder / "results.json").read_text())
    page = (ROOT / "docs" / "real-model.md").read_text()
    for line in real_model.tables(curves).splitlines():
        assert line in page


# --- with a real model ---

MODEL, TRL = ROOT.parent / "smollm2", ROOT.parent / "venv-trl"  # lab/smollm2.py makes the model
PROBLEMS = SHARED / "gsm8k_train.jsonl"


@pytest.mark.slow
@pytest.mark.skipif(not (MODEL.exists() and PROBLEMS.exists()), reason="../smollm2, ../shared/data")
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_two_steps_of_a_real_model(tmp_path, engine, ranks):
    flags = f"--engine {engine} --steps 2 --prompts_per_step 2 --samples_per_prompt 2 "
    flags += "--eval_every 0 --updates_per_step 2 --max_prompt_tokens 128 --max_response_tokens 24 "
    flags += "--learning_rate 1e-5 --warmup_steps 0 --tokens_per_micro_batch 512"
    sources = ["--model", MODEL, "--data", PROBLEMS, "--out", tmp_path]
    done = python("justrl.py", *flags.split(), *sources, ranks=ranks, timeout=1500, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-4000:]
    for row in read_jsonl(tmp_path / "metrics.jsonl"):
        assert row["logp_gap"] < 1e-4 and row["logp_gap_max"] < 1e-3 and row["skipped_updates"] == 0


@pytest.mark.slow
@pytest.mark.skipif(not (MODEL.exists() and TRL.exists()), reason="../smollm2, ../venv-trl")
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
    ours = [row["problem"] for path in sorted(rollouts) for row in kept.read(path)]
    assert [row["problem"] for row in problems] == list(dict.fromkeys(ours))
