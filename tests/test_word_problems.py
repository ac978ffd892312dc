"""The problems, the cold start and the runs of lab/real_model.py (docs/real-model.md)."""

import json
import math
import re
import sys

import pytest
import torch
from conftest import ROOT

from lab import real_model
from rewards import strict_box
from tiny.pretrain import base_model
from trainer.data import Problem, Template, encode_prompts
from trainer.policy.pretrained import load_tokenizer

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


@pytest.fixture
def toy(tmp_path, monkeypatch, start):
    """OUT with the cold start of a toy model; one short step; commands as forks of one process."""
    few = {"steps": 1, "save_every": 1, "prompts_per_step": 2, "samples_per_prompt": 2}
    monkeypatch.setattr(real_model, "SETTINGS", real_model.SETTINGS | few)
    monkeypatch.setattr(real_model, "LIMIT", 2)
    commands = []

    def run(log, interpreter, *words):
        commands.append([str(word) for word in words])
        done = start(*(word for word in words if word != "-m")).wait()
        assert done.returncode == 0, done.stderr[-3000:]

    monkeypatch.setattr(real_model, "run", run)
    losses = real_model.cold_start(base_model("aligned"), tmp_path / "out/start", 4, 1e-3)
    assert losses[-1] < losses[0]
    return tmp_path / "out", commands


def test_one_command_trains_evaluates_and_draws_and_the_same_command_goes_on(toy, monkeypatch):
    out, commands = toy
    tokenizer = load_tokenizer(str(out / "start"))
    (problem,) = encode_prompts([Problem("2 + 3?", "5")], tokenizer, Template())
    assert tokenizer.decode(problem.prompt_ids) == "2 + 3?\n"
    monkeypatch.setattr(sys, "argv", ["real_model", str(out), "--runs", "justrl=1"])
    real_model.main()
    assert len(commands) == 3  # the start's evaluation, a run and its evaluation
    ((curve,),) = json.loads((out / "results.json").read_text()).values()
    assert [point["step"] for point in curve] == [0, 1]
    assert curve[0]["seconds"] == curve[0]["tokens"] == 0
    assert curve[1]["seconds"] > 0 and curve[1]["tokens"] > 0
    (step,) = map(json.loads, (out / "steps.jsonl").read_text().splitlines())
    assert step["run"] == "justrl-seed1" and step["tokens"] == curve[1]["tokens"]
    assert "| JustRL (1) | 2 |" in (out / "tables.md").read_text()
    assert (out / "curves.png").stat().st_size > 10_000
    (out / "evals" / "justrl-seed1" / "1" / "eval.json").unlink()
    real_model.main()
    assert len(commands) == 4 and commands[3][0].endswith("evaluate.py")


def test_a_run_that_fails_is_named_and_shown(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)no\.py failed with status 2.*No such file"):
        real_model.run(tmp_path / "logs" / "a.log", sys.executable, "no.py")


def curve(*scores, seconds=10.0):
    names = [f"{split} {score}" for split in real_model.SKILLS for score in real_model.SCORES]
    names += real_model.BY_SKILL
    return [
        {"step": i, "seconds": seconds * i, "tokens": 9 * i} | dict.fromkeys(names, score)
        for i, score in enumerate(scores)
    ]


def test_the_time_to_a_score_is_read_off_the_line_between_checkpoints():
    assert real_model.time_to(curve(0.2, 0.4, 0.6), 0.5) == 15.0
    assert real_model.time_to(curve(0.2, 0.1, 0.6), 0.2) == 12.0
    assert math.isinf(real_model.time_to(curve(0.2, 0.4), 0.5))


def test_the_tables_have_means_with_intervals_over_seeds():
    curves = {"justrl": [curve(0.2, 0.5), curve(0.2, 0.7)], "trl": [curve(0.2, 0.3, seconds=30.0)]}
    text = real_model.tables(curves)
    assert "| cold start | 1 | 20.0 | 20.0 | 20.0 | 20.0 |" in text
    assert "| JustRL (2) | 2 | 60.0 ± 127.1 |" in text  # 12.706 standard errors of 0.1
    assert "| JustRL (2) | 60.0 ± 127.1 | 60.0 ± 127.1 | 60.0 ± 127.1 |" in text
    assert "seconds to 40.0 % |" in text
    assert (
        "| JustRL | 10.0 | 9 | 7, 4 |" in text and "| TRL's GRPOTrainer | 30.0 | 9 | inf |" in text
    )


def test_the_page_s_tables_are_what_was_measured():
    folder = ROOT / "docs" / "figures" / "real-model"
    curves = json.loads((folder / "results.json").read_text())
    page = (ROOT / "docs" / "real-model.md").read_text()
    for line in real_model.tables(curves).splitlines():
        assert line in page
