"""The tiny world: problems, corpus, tokenizer, shipped models."""

import operator
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import answers_of
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rewards import strict_box
from tiny import arithmetic, pretrain, world

LEVELS = ("easy", "medium", "hard", "ood", "mixed")
TRAINED = ("easy", "medium", "hard", "mixed")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(pretrain.base_model("base"))


@pytest.fixture(scope="module")
def corpora():
    return {
        style: arithmetic.corpus(style, random.Random(0), 4000)
        for style in (arithmetic.BASE, arithmetic.ALIGNED)
    }


def operands(text: str) -> list[int]:
    """ "3+5-2=?" -> [3, 5, -2], by another way than the module's own."""
    return [int(term) for term in re.findall(r"[+-]?\d+", text)]


def test_splits_share_no_problem():
    composed = ("compose", "compose-1", "compose-3-5", "compose-30")
    trained, held_out = (
        {problem["problem"] for level in levels for problem in world.problems(split, level)}
        for split, levels in (("train", TRAINED + composed), ("eval", LEVELS + composed))
    )
    assert trained and held_out and not trained & held_out


def test_problems_are_always_the_same():
    first = {level: world.problems("eval", level) for level in LEVELS}
    arithmetic.problems.cache_clear()
    assert first == {level: world.problems("eval", level) for level in LEVELS}
    assert first["easy"][0]["problem"] == "2+4=?"  # on every machine
    first["easy"].clear()
    assert world.problems("eval", "easy")  # a caller's list is its own


@pytest.mark.parametrize(
    "split, level", [("train", name) for name in TRAINED] + [("eval", name) for name in LEVELS]
)
def test_answers_and_sizes(split, level):
    found = world.problems(split, level)
    assert len(found) >= (1400 if split == "train" else 200)
    assert len({problem["problem"] for problem in found}) == len(found)
    for problem in found:
        terms = operands(problem["problem"])
        assert problem["answer"] == str(sum(terms)) and 0 <= sum(terms) <= 20
        shortest, longest = arithmetic.LEVELS[problem["task"]]
        assert shortest <= len(terms) <= longest and (level == "mixed" or problem["task"] == level)


def test_mixed_is_a_fair_blend_in_every_prefix():
    tasks = [problem["task"] for problem in world.problems("eval", "mixed")]
    assert all(tasks[:90].count(level) == 30 for level in ("easy", "medium", "hard"))


@pytest.mark.parametrize(
    "split, level",
    [("test", "easy"), ("eval", "harder"), ("train", "ood"), ("eval", "composed")]
    + [("eval", f"compose-{depths}") for depths in ("", "0", "47", "5-3", "x")],
)
def test_unknown_names_are_refused(split, level):
    with pytest.raises(ValueError, match="use"):
        world.problems(split, level)
    for model in ("big", "base-huge", "base-medium", ""):
        with pytest.raises(ValueError, match="base"):
            pretrain.base_model(model)


def test_corpus_never_shows_held_out_or_long_chains(corpora):
    held_out = {problem["problem"] for level in LEVELS for problem in world.problems("eval", level)}
    for triples in corpora.values():
        questions = [question.strip() for question, _, _ in triples]
        assert not held_out & set(questions)
        longest = max(len(operands(question)) for question in questions)
        assert longest == arithmetic.LEVELS["hard"][1]


def test_corpus_has_every_phenomenon(corpora):
    share = {}
    for style, triples in corpora.items():
        answers = [(operands(question), answer, ends) for question, answer, ends in triples]
        finished = [(terms, answer) for terms, answer, ends in answers if ends]
        guessed = [pair for pair in finished if pair[1].startswith((r"\boxed{", "answer"))]
        worked = [pair for pair in finished if pair[1][0].isdigit()]
        assert len(guessed) + len(worked) == len(finished)

        def wrong(pairs):
            values = [float(re.findall(r"-?\d+(?:\.0)?", answer)[-1]) for _, answer in pairs]
            golds = [sum(terms) for terms, _ in pairs]
            return sum(map(operator.ne, values, golds)) / len(pairs)

        strict = [answer for _, answer in finished if re.search(r"\\boxed\{\d+\}$", answer)]
        share[style] = dict(guess=len(guessed) / len(answers), strict=len(strict) / len(finished))
        assert 0.4 < wrong(guessed) < 0.6
        assert 0.1 < wrong(worked) < 0.35
        assert 0.03 < sum(not ends for _, _, ends in answers) / len(answers) < 0.12
        assert any("wait" in answer for _, answer in finished)
        for loose in (r"\boxed{ ", r"\boxed{+", ".0}", r"\boxed{x=", "answer: "):
            assert any(loose in answer for _, answer in finished), loose
    assert share[arithmetic.BASE]["guess"] > share[arithmetic.ALIGNED]["guess"]
    assert share[arithmetic.BASE]["strict"] < share[arithmetic.ALIGNED]["strict"]


def test_worked_steps_without_slips_are_right():
    careful = arithmetic.Style(guess=0, lucky=0, slip=0, recheck=0.5, endless=0, strict=1)
    for question, answer, ends in arithmetic.corpus(careful, random.Random(1), 300):
        gold = sum(operands(question))
        if ends:  # rechecks can run into the length limit
            assert answer.endswith(rf"\boxed{{{gold}}}")
        for line in re.split("[\n=]", answer)[:-1]:
            assert line == "wait" or sum(operands(line)) == gold


def test_tokenizer_round_trip(tokenizer):
    everything = "".join(map(chr, range(32, 127))) + "\n\t"
    everything += r"3+5-2=? \boxed{6} \boxed {6} user assistant system users"
    ids = tokenizer.encode(everything)
    assert tokenizer.decode(ids) == everything
    # What the scripts open.
    as_saved = PreTrainedTokenizerFast.from_pretrained(pretrain.base_model("base"))
    assert ids == as_saved.encode(everything) == pretrain.make_tokenizer().encode(everything)
    assert len(tokenizer.encode(r"\boxed{6}")) == 3


def test_tokenizer_ends_pads_and_chats(tokenizer):
    assert tokenizer.eos_token == pretrain.END and tokenizer.pad_token == pretrain.PAD
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}) == 3
    ended = [tokenizer.eos_token_id, *tokenizer.encode("6")]
    assert tokenizer.decode(ended, skip_special_tokens=True) == "6"
    chat = [dict(role="user", content="3+5-2=?")]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids == tokenizer.encode(pretrain.PROMPT.format("3+5-2=?")) and len(ids) == 15
    chat = [dict(role="system", content="be brief"), *chat, dict(role="assistant", content="6")]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("<|im_start|>assistant\n6<|im_end|>\n")


def test_length_batches_keep_every_answer_and_targets_cover_answers_only(tokenizer, corpora):
    triples = corpora[arithmetic.BASE][: 4 * pretrain.BATCH]
    batches = pretrain.length_batches(triples, random.Random(0))
    assert sorted(triple for batch in batches for triple in batch) == sorted(triples)
    question, answer, ends = batches[0][0]
    encoded = pretrain.encode_batch(batches[0], tokenizer, 0, random.Random(0))
    ids_B_T, targets_B_T, positions_B_T = encoded
    assert ids_B_T.shape == targets_B_T.shape == positions_B_T.shape
    assert positions_B_T[0].tolist() == list(range(ids_B_T.shape[1]))
    text = tokenizer.decode(ids_B_T[0][targets_B_T[0] != -100])
    assert text == answer + (pretrain.END if ends else "")
    assert question in tokenizer.decode(ids_B_T[0])


def test_shipped_models_are_small_and_plain():
    for name in (name for family in pretrain.FAMILIES.values() for name in family):
        folder = Path(pretrain.base_model(name))
        assert sum(file.stat().st_size for file in folder.iterdir()) < 500_000
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.dtype == torch.bfloat16 and model.config.tie_word_embeddings
        # vLLM's CPU kernels know heads of these sizes.
        assert model.config.hidden_size // model.config.num_attention_heads in (32, 64)
        eos = AutoTokenizer.from_pretrained(folder).eos_token_id
        assert model.generation_config.eos_token_id == eos


def test_a_build_is_deterministic_and_opens(tmp_path, monkeypatch):
    short = {
        name: [replace(phase, steps=3) for phase in phases]
        for name, phases in pretrain.FAMILIES["arithmetic"].items()
    }
    monkeypatch.setitem(pretrain.FAMILIES, "arithmetic", short)
    for name in ("a", "b"):
        pretrain.build("arithmetic", "small", tmp_path / name)
    for model in ("base-small", "aligned-small"):
        first, second = (
            AutoModelForCausalLM.from_pretrained(tmp_path / name / model) for name in ("a", "b")
        )
        assert first.config.hidden_size == 64
        for key, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[key]), key


@pytest.mark.parametrize("name, low, high", [("base", 0.25, 0.45), ("aligned", 0.35, 0.52)])
def test_where_rl_starts(name, low, high):
    groups = answers_of(name, "mixed", 150, 4, 64, temperature=0.7, top_p=0.9)
    right = [strict_box(text, p["answer"]) > 0 for p, texts in groups for text in texts]
    assert low < sum(right) / len(right) < high


def test_there_is_far_more_to_find_than_is_usually_found():
    groups = answers_of("aligned", "mixed", 30, 32, 64)
    right = [[strict_box(text, p["answer"]) > 0 for text in texts] for p, texts in groups]
    pass_1, pass_32 = sum(map(sum, right)) / (30 * 32), sum(map(any, right)) / 30
    assert pass_1 < 0.35 and pass_32 > 0.9
