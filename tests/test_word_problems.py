"""The problems and the cold start of docs/real-model.md."""

import json
import re

import torch
from conftest import ROOT

from lab import real_model
from rewards import strict_box
from tiny.pretrain import base_model
from trainer.data import Problem, Template, encode_prompts
from trainer.policy.pretrained import load_tokenizer
from trainer.sources.load import load_problems


def pair(row):
    return frozenset(map(int, re.findall(r"\d+", row["problem"])))


def test_the_splits_share_no_pair_of_numbers():
    pairs = {split: {pair(row) for row in real_model.problems(split)} for split in real_model.SIZES}
    assert all(pairs.values())
    for split, other in (("train", "heldout"), ("train", "form"), ("form", "heldout")):
        assert not pairs[split] & pairs[other]


def test_answers_are_right_and_problems_are_always_the_same():
    for split, size in real_model.SIZES.items():
        rows = real_model.problems(split)
        assert rows == real_model.problems(split)
        assert len({row["problem"] for row in rows}) == size
        for row in rows:
            a, b = map(int, re.findall(r"\d+", row["problem"]))
            less = re.search("loses|away", row["problem"])
            assert int(row["answer"]) == (a - b if less else a + b) > 0
            assert row["sum"] == (f"{a} - {b}" if less else f"{a} + {b}")


def test_the_files_are_problems_that_the_recipes_read(tmp_path):
    real_model.write_problems(tmp_path / "problems")
    held_out = load_problems(str(tmp_path / "problems" / "heldout.jsonl"))
    rows = real_model.problems("heldout")
    assert [(p.text, p.answer) for p in held_out] == [(r["problem"], r["answer"]) for r in rows]


def test_the_cold_start_learns_the_form_and_saves_a_model_to_start_from(tmp_path):
    rows = real_model.problems("form")
    losses = real_model.cold_start(base_model("aligned"), rows, tmp_path, steps=4, rate=1e-3)
    assert losses[-1] < losses[0]
    tokenizer = load_tokenizer(str(tmp_path))
    (problem,) = encode_prompts([Problem("2 + 3?", "5")], tokenizer, Template())
    assert tokenizer.decode(problem.prompt_ids) == "2 + 3?\n"


def test_an_example_learns_the_answer_alone_and_the_verifier_accepts_it():
    tokenizer = load_tokenizer(base_model("aligned"))
    tokenizer.chat_template = real_model.TEMPLATE
    row = real_model.problems("form")[0]
    ids, labels = real_model.example(tokenizer, row)
    learnt = labels >= 0
    assert torch.equal(ids[learnt], labels[learnt])
    assert tokenizer.decode(ids[~learnt]) == row["problem"] + "\n"
    assert ids[-1] == tokenizer.eos_token_id
    answer = tokenizer.decode(ids[learnt], skip_special_tokens=True)
    assert strict_box(answer, row["answer"]) > 0


def test_the_page_s_tables_are_what_was_measured():
    page = (ROOT / "docs" / "real-model.md").read_text()
    folder = ROOT / "docs" / "figures" / "real-model"
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "eval_accuracy" in row:
            assert f"\n| {row['step']} | {row['eval_accuracy']:.3f} |\n" in page
    before, after = json.loads((folder / "evals.json").read_text()).values()
    for measured in (before, after):
        (mean, low, high), (most, *_) = measured["strict"]["1"], measured["strict"]["8"]
        assert f"| {mean:.3f} ({low:.3f} to {high:.3f}) | {most:.3f} |" in page
    assert 0.05 <= before["strict"]["8"][0] <= 0.6  # neither hopeless nor solved
    assert after["strict"]["1"][0] >= 2 * before["strict"]["1"][0]
