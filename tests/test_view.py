"""What a run keeps of its rollouts and what the viewer reads. Its page: test_view_page.py."""

import json
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from architectures import byte_tokenizer
from conftest import ROOT, write_jsonl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from viewer import HOSTILE, answer, make_evaluation, make_hostile_run, make_run

import losses
from tools.view.__main__ import main
from tools.view.folder import load
from tools.view.page import pack, render
from tools.view.tokens import Pieces
from trainer.data import Problem, Rollout
from trainer.errors import Refused
from trainer.policy.policy import micro_batches, response_mask
from trainer.run import kept as rollouts


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(end="<|end|>")


def group(*rewards):
    return [SimpleNamespace(reward=reward, right=float(reward > 0)) for reward in rewards]


MIXED, FAILED, SOLVED = group(1, -1), group(-1, -1), group(1, 1)

# --- which groups are kept ---


@pytest.mark.parametrize(
    ("keep", "groups", "kept"),
    [
        ("0", [MIXED] * 3, []), ("4", [SOLVED, SOLVED, MIXED, MIXED, FAILED], [0, 1, 2, 4]),
        ("4", [MIXED] * 6, [0, 1, 2, 3]),
        ("6", [FAILED, MIXED, MIXED, SOLVED, MIXED, FAILED, FAILED], [0, 1, 2, 3, 5, 6]),
        ("9", [MIXED, FAILED], [0, 1]), ("all", [SOLVED] * 3, [0, 1, 2]),
    ],
)  # fmt: skip
def test_the_first_group_and_then_one_of_each_kind_in_turn(keep, groups, kept):
    assert rollouts.choose(groups, keep) == kept


def test_held_out_problems_are_kept_evenly_spread():
    assert rollouts.choose_held_out(100, "4") == [0, 12, 25, 37, 50, 62, 75, 87]
    assert rollouts.choose_held_out(3, "4") == [0, 1, 2]
    assert rollouts.choose_held_out(3, "all") == [0, 1, 2]
    assert rollouts.choose_held_out(5, "0") == rollouts.choose_held_out(0, "4") == []


# --- what is kept of a token ---


def micro(rollouts_B, rng, **changes):
    """A micro-batch with random columns, of the attributes that token_values reads."""
    tokens = sum(len(rollout.response_ids) for rollout in rollouts_B)
    names = "old_logps_M", "new_logps_M", "engine_logps_M", "entropy_M", "weights_M", "advantages_M"
    columns = {name: torch.tensor(rng.normal(size=tokens), dtype=torch.float32) for name in names}
    columns |= {"raw_logps_M": None, "rollouts": rollouts_B}
    return SimpleNamespace(**(columns | changes))


def blank(length):
    return Rollout(np.zeros(1, np.int32), np.zeros(length, np.int32), np.zeros(length), False)


SETTINGS = (0.2, 0.28, 10.0), 0.0  # clip, tis_cap


def test_the_gap_compares_log_probs_of_one_kind():
    rng = np.random.default_rng(0)
    group = [blank(4), blank(5)]
    plain, raw = micro(group[:1], rng), micro(group[1:], rng, raw_logps_M=torch.zeros(5))
    found = rollouts.token_values([group], [0], [[plain, raw]], *SETTINGS)
    assert "gap" not in found[0, 0]
    np.testing.assert_array_equal(found[0, 1]["gap"], -raw.engine_logps_M.half())
    found = rollouts.token_values([group], [0], [[plain]], *SETTINGS)
    gap_M = plain.old_logps_M - plain.engine_logps_M
    np.testing.assert_array_equal(found[0, 0]["gap"], gap_M.half())


def test_token_values_find_their_way_back_from_the_trainers_micro_batches():
    """Each token's columns hold a number of its own: its id, which no other token has."""
    rng, count = np.random.default_rng(0), iter(range(10**6))
    groups = [[blank(int(rng.integers(1, 30))) for _ in range(4)] for _ in range(6)]
    for rollout in chain(*groups):
        rollout.response_ids = np.array([next(count) for _ in rollout.response_ids], np.int32)
    minibatches = []
    for rows in (groups[:3], groups[3:]):
        members = list(chain(*rows))
        weights_B_R = response_mask(members).float()
        ones_B, cpu = torch.ones(len(members)), torch.device("cpu")
        minibatches.append(micro_batches(members, ones_B, weights_B_R, budget=64, device=cpu))
    for batch in chain(*minibatches):
        ids_M = batch.ids_B_T[batch.mask_B_T].float()
        batch.new_logps_M = batch.old_logps_M = -ids_M
        batch.entropy_M, batch.weights_M = ids_M, ids_M / 2
    found = rollouts.token_values(groups, [1, 4], minibatches, *SETTINGS)
    assert set(found) == {(p, g) for p in (1, 4) for g in range(4)}
    for (p, g), values in found.items():
        ids = groups[p][g].response_ids
        for name, column in {"entropy": ids, "logps": -ids, "weights": ids / 2}.items():
            np.testing.assert_array_equal(values[name], column)
        assert values["minibatch"] == (p == 4)


def test_clipped_tokens_are_those_that_the_loss_gives_no_gradient():
    """Against autograd: the loss is flat exactly where `clipped` is not 0, and its sign is A's."""
    ratios = [0.5, 0.79, 0.81, 1.0, 1.27, 1.29, 9.9, 11.0]
    new = torch.tensor(ratios * 2).log().requires_grad_()
    advantages = torch.tensor([1.0] * 8 + [-1.0] * 8)
    batch = micro([blank(16)], np.random.default_rng(0), new_logps_M=new.detach())
    batch.old_logps_M, batch.advantages_M = torch.zeros(16), advantages
    found = rollouts.token_values([batch.rollouts], [0], [[batch]], *SETTINGS)[0, 0]["clipped"]
    losses.clipped_policy_loss(new, torch.zeros(16), advantages, 0.2, 0.28, 10.0).sum().backward()
    np.testing.assert_array_equal(found != 0, new.grad.numpy() == 0)
    np.testing.assert_array_equal(found, np.where(found != 0, advantages, 0))


# --- files ---


def test_rows_come_back_as_they_were_written(tmp_path, tokenizer):
    text = "x " + HOSTILE["emoji"]
    problem = Problem(text, "1", "sums", {"task": "t", "gold": [1, 2]})
    members = [answer(tokenizer, "yes", True), answer(tokenizer, "", False, truncated=True)]
    columns = {"logps": np.array([-0.5, -np.inf, -1e-6, 0]), "clipped": np.array([1, -1, 0, 0])}
    more = [rollouts.stored(columns) | {"advantage": 0.5}, {"advantage": -0.5}]
    rows = rollouts.rows_of(3, 7, problem, members, more)
    rollouts.write(tmp_path, "step_000003", rows)
    first, second = rollouts.read(tmp_path / "step_000003.parquet")
    assert first["problem"] == text
    assert json.loads(first["verify"]) == problem.verify
    assert (first["text"], first["right"], first["solved"]) == ("yes", 1.0, 0.5)
    assert (second["truncated"], second["advantage"], second["sample"]) == (True, -0.5, 1)
    np.testing.assert_array_equal(first["response_ids"], members[0].response_ids)
    np.testing.assert_allclose(first["logps"], [-0.5, -65504, -1e-6, 0], rtol=1e-3, atol=3e-8)
    np.testing.assert_array_equal(first["clipped"], [1, -1, 0, 0])
    assert first["gap"] is None and second["logps"] is None and len(second["response_ids"]) == 0
    assert rollouts.count_tokens(tmp_path / "step_000003.parquet") >= 4


def test_the_files_open_with_datasets(tmp_path):
    from datasets import load_dataset

    make_run(tmp_path / "run")
    files, cache = str(tmp_path / "run/rollouts/step_*.parquet"), str(tmp_path / "cache")
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    assert len(rows) == 36 and rows[0]["text"] == "so \\boxed{10}"


def test_a_resumed_run_forgets_later_steps_and_torn_files(tmp_path):
    folder = make_run(tmp_path / "run") / "rollouts"
    (folder / "step_000007.parquet.tmp").write_bytes(b"PAR1 torn")
    rollouts.forget_after(folder, 3)
    kept = ["eval_000000", "eval_000003", "step_000001", "step_000002", "step_000003"]
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.parquet" for name in kept]
    rollouts.forget_after(tmp_path / "nowhere", 3)
    (folder / "step_000002.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(Refused, match=r"step_000002\.parquet is damaged .*: delete it"):
        load(folder.parent)


# --- texts of tokens ---


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_joined_tokens_are_the_answer(tokenizer, text):
    ids = tokenizer(text + "<|end|>").input_ids
    pieces = Pieces(tokenizer).split(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == text + "<|end|>"
    assert "\ufffd" not in "".join(pieces)


def test_a_character_of_several_tokens_stands_at_the_first(tokenizer):
    pieces = Pieces(tokenizer).split(tokenizer("a👩é").input_ids)
    assert pieces == ["a", "👩", "", "", "", "é", ""]


@pytest.mark.parametrize("cut", range(1, 9))
def test_an_answer_cut_inside_a_character_joins_to_what_the_tokenizer_decodes(tokenizer, cut):
    ids = tokenizer("👩é!👩").input_ids[:cut]
    assert "".join(Pieces(tokenizer).split(ids)) == tokenizer.decode(ids)


def test_noise_that_is_no_text_keeps_what_follows(tokenizer):
    start = tokenizer("👩").input_ids[0]
    ids = [start] * 20 + tokenizer("so 1").input_ids
    pieces = Pieces(tokenizer).split(ids)
    assert "".join(pieces) == tokenizer.decode(ids) and pieces[-3:] == ["o", " ", "1"]


def test_a_decoder_that_looks_at_neighbours_is_followed():
    """SentencePiece's: the space before the first word of a text goes."""
    vocabulary = {"▁a": 0, "▁b": 1, "c": 2, "<unk>": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert Pieces(fast).split([0, 1, 2, 0]) == ["a", " b", "c", " a"]


# --- reading a run or an evaluation ---


def test_a_run_is_read_with_its_curves_groups_and_verdicts(tmp_path):
    source = load(make_run(tmp_path / "run"))
    assert source.steps == list(range(7)) and source.resets == [4]
    assert source.curves["reward"] == [None, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert len(source.groups) == 18 + 6
    two = next(g for g in source.groups if (g.kind, g.step, g.place) == ("train", 2, 0))
    assert [(a.strict, a.robust) for a in two.answers] == [(False, True), (False, False)]
    assert two.answers[0].pieces[-1] == "<|end|>" and two.answers[0].special[-1]
    assert two.prompt == "Q?"
    only = load(tmp_path / "run", range(2, 4))
    assert {group.step for group in only.groups} == {2, 3} and len(only.steps) == 7


def test_a_run_whose_tokenizer_has_gone_is_shown_as_text(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "model" / "tokenizer.json").unlink()
    source = load(folder)
    assert source.groups[0].answers[0].pieces is None
    assert source.groups[0].answers[0].text
    pack([source])


def test_a_run_too_long_for_a_page_shows_steps_from_begin_to_end(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run")
    monkeypatch.setattr("tools.view.folder.MAX_TOKENS", 300)
    source = load(folder)
    steps = sorted({group.step for group in source.groups})
    assert steps[0] == 0 and steps[-1] == 6 and len(steps) < 6
    assert "do not fit" in source.left_out and "--steps" in source.left_out


def test_an_evaluation_is_read_with_pass_counts_and_disputed_answers_first(tmp_path, monkeypatch):
    folder = make_evaluation(tmp_path / "evaluation")
    source = load(folder)
    facts = ["2 of 4 right, 1 to the letter", "pass @1 0.5  @2 0.833  @4 1"]
    assert [group.facts for group in source.groups] == [facts] * 3
    assert source.labels == ["aime", "amc"]
    monkeypatch.setattr("tools.view.folder.MAX_CHARACTERS", 20)
    short = load(folder)
    assert [answer.text for answer in short.groups[0].answers] == ["\\boxed{7.0}"]
    assert short.groups[0].facts == facts
    assert "of 12 answers do not fit" in short.left_out


def test_answers_are_judged_by_the_puzzles_verifier_and_with_what_the_prompt_began(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tools.evaluation.grading.logic_score", lambda text, verify: float(text))
    path = make_evaluation(tmp_path / "evaluation") / "generations.jsonl"
    record = json.loads(path.read_text().splitlines()[0]) | {"answer": "42"}
    blank = {"tokens": 1, "truncated": False, "distinct_4gram": 1.0}
    puzzle = record | {"verify": {"task": "t"}}
    puzzle["answers"] = [blank | {"text": "1"}, blank | {"text": "0.5"}]
    begun = record | {"index": 1, "prefill": "\\boxed{", "answers": [blank | {"text": "42}"}]}
    write_jsonl(path, [puzzle, begun])
    first, second = load(path.parent).groups
    assert [(a.strict, a.robust) for a in first.answers] == [(True, True), (False, False)]
    assert [(a.strict, a.robust) for a in second.answers] == [(True, True)]


# --- the page and the terminal ---


def test_no_text_of_a_run_stands_in_the_page_itself(tmp_path):
    html = render([load(make_hostile_run(tmp_path / "hostile"))])
    for text in HOSTILE.values():
        assert text not in html
    assert html.count("</script>") == 3 and "MIT License" in html
    assert len(html) < 1_000_000  # 28 bytes each of 200,000 tokens, compressed
    assert "http://" not in html.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere is no folder: give the folder of a run"),
        ([ROOT / "docs"], "holds no metrics.jsonl or generations.jsonl"),
        (["a", "b", "c"], "compares two folders at most"),
        (["a", "--steps", "x:y"], "is no step and no FIRST:LAST"),
        (["a", "--steps", "30:"], "no rollouts were kept of these --steps"),
    ],
)
def test_a_wrong_command_gets_one_sentence(arguments, says, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(make_run(tmp_path / "a").parent)
    monkeypatch.setattr("sys.argv", ["view", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert says in f"{end.value.code} {capsys.readouterr().err}" and end.value.code != 0


def test_the_command_writes_a_page_where_it_is_told(tmp_path, monkeypatch, capsys):
    folder, page = make_run(tmp_path / "run"), tmp_path / "new" / "page.html"
    monkeypatch.setattr("sys.argv", ["view", str(folder), "--out", str(page)])
    main()
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert f"Open {page}" in capsys.readouterr().out
