"""Logic puzzles: splits, seeds, the library's verifiers as rewards, and attacks on them."""

import importlib.util
import json
import sys
import time
from collections import Counter

import pytest

from trainer.errors import Refused
from trainer.sources import logic
from trainer.sources.load import load_problems
from trainer.sources.logic import EXCLUDED, GRAPH_SIZES, HELD_OUT, OPEN, REFUSED, SLOW, logic_score

needs_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None,
    reason=f"needs reasoning-gym=={logic.VERSION}",
)
NO_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
EXAMPLES = {  # where the metadata of tasks without a gold hold a solution
    "graph_color": lambda entry: json.dumps(entry["metadata"]["possible_answer"]),
    "propositional_logic": lambda entry: entry["metadata"]["example_answer"],
    "rubiks_cube": lambda entry: entry["metadata"]["example_correct_answer"],
}


def tagged(answer):
    return f"<think>hm</think> <answer>{answer}</answer>"


@pytest.fixture(scope="module")
def train():
    tasks = len(logic._names("train"))
    return logic.load(f"train:{2 * tasks}", seed=1)


@pytest.fixture(scope="module")
def held_out():
    return logic.load("held_out:60", seed=1)


@pytest.fixture(scope="module")
def graphs():
    return logic.load(f"graph_color:{2 * len(GRAPH_SIZES)}", seed=1)


# --- splits ---


@needs_gym
def test_train_is_balanced_and_without_the_tasks_left_out(train, held_out):
    from reasoning_gym.factory import DATASETS

    counts = Counter(problem.task for problem in train)
    assert {*counts, *HELD_OUT, *SLOW, *EXCLUDED} == set(DATASETS)
    assert len(counts) == 94 and set(counts.values()) == {2}
    assert not set(counts) & {*HELD_OUT, *SLOW, *EXCLUDED}
    assert Counter(problem.task for problem in held_out) == dict.fromkeys(HELD_OUT, 20)
    assert not {problem.text for problem in train} & {problem.text for problem in held_out}


@needs_gym
def test_graphs_have_ten_vertices_in_training_and_more_in_their_own_split(train, graphs):
    def vertices(problem):
        return len(problem.verify["entry"]["metadata"]["puzzle"]["vertices"])

    assert {vertices(problem) for problem in train if problem.task == "graph_color"} == {10}
    assert {problem.task: vertices(problem) for problem in graphs} == {
        f"graph_color/{n}": n for n in GRAPH_SIZES
    }


@needs_gym
def test_a_seed_gives_the_same_puzzles_whatever_the_hash_seed(train, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")  # the caller's; some tasks iterate over sets
    assert logic.load(f"train:{len(train)}", seed=1) == train
    for other in (logic.load("train:94", seed=2), logic.load("validation:94", seed=1)):
        assert [problem.task for problem in other] == [problem.task for problem in train[:94]]
        assert sum(a.text == b.text for a, b in zip(train, other, strict=False)) < 5


@needs_gym
def test_problems_are_json_and_ask_for_the_tags(train, held_out, graphs):
    for problem in train + held_out + graphs:
        assert json.loads(json.dumps(problem.verify)) == problem.verify
        assert problem.verify["task"] == problem.task
        assert problem.text.endswith(logic.INSTRUCTION)
        assert (problem.answer == OPEN) == (problem.task.partition("/")[0] in NO_GOLD)


@needs_gym
def test_sources():
    problems = load_problems("logic:chain_sum:3", seed=5)
    assert problems == logic.load("chain_sum:3", seed=5)
    graphs = load_problems("logic:graph_color/20:2")
    assert [problem.task for problem in graphs] == ["graph_color/20"] * 2
    assert len(load_problems("logic:gcd")) == 1_000


@needs_gym
@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("logic:sudokus", "no such split or task"), ("logic:", "no such split or task"),
        ("logic:graph_color/11", "no such split or task"), ("logic:train:0", "positive number"),
        ("logic:train:", "positive number"), ("logic:train:many", "positive number"),
        ("logic:puzzle24", "excluded, its verifier takes any four numbers"),
    ],
)  # fmt: skip
def test_bad_sources_get_one_sentence(source, sentence):
    with pytest.raises(Refused, match=sentence) as error:
        load_problems(source)
    assert "\n" not in str(error.value)


def test_without_the_library_the_sentence_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    logic._dataset.cache_clear()
    sentence = f"pip install reasoning-gym=={logic.VERSION}"
    with pytest.raises(Refused, match=sentence):
        load_problems("logic:train")
    with pytest.raises(Refused, match=sentence):
        logic_score(tagged("3"), {"task": "chain_sum", "entry": {"answer": "3"}})


# --- scores ---


@needs_gym
def test_golds_score_one_and_junk_does_not(train, held_out, graphs):
    judged = set()
    for problem in train + held_out + graphs:
        task, entry = problem.task.partition("/")[0], problem.verify["entry"]
        gold = EXAMPLES.get(task, lambda _, problem=problem: problem.answer)(entry)
        if gold != OPEN:
            assert logic_score(tagged(gold), problem.verify) == 1, problem.task
            judged.add(task)
        if gold:  # polynomial_equations asks for an empty answer where there is no solution
            assert logic_score(tagged("~ zz"), problem.verify) < 1, problem.task
    assert judged == ({problem.task for problem in train} | {*HELD_OUT}) - {"boxnet", "rush_hour"}


@needs_gym
def test_boxnet_and_rush_hour_reward_real_moves():
    rush = {"answer": None, "metadata": {"board_config": "o" * 12 + "AAoooo" + "o" * 18}}
    assert logic_score(tagged("A+4"), {"task": "rush_hour", "entry": rush}) == 1
    assert logic_score(tagged("A+1"), {"task": "rush_hour", "entry": rush}) < 0.1
    reds = ["box_red", "target_red"]
    state = {"0.5_0.5": reds, "0.5_1.5": ["box_blue"], "0.5_2.5": ["target_blue"]}
    boxes = {"task": "boxnet", "entry": {"answer": None, "metadata": {"initial_state": state}}}
    one = {
        "Agent[0.5, 0.5]": "move(box_red, target_red)",
        "Agent[0.5, 1.5]": "move(box_blue, square[0.5, 2.5])",
    }
    both = [one, {"Agent[0.5, 2.5]": "move(box_blue, target_blue)"}]
    assert logic_score(tagged(json.dumps([one])), boxes) == 0.5  # partial credit
    assert logic_score(tagged(json.dumps(both)), boxes) == 1


@needs_gym
def test_the_last_complete_tags_count():
    verify = {"task": "gcd", "entry": {"answer": "12"}}
    assert logic_score("<answer>7</answer> no: <answer> 12\n</answer>.", verify) == 1
    assert logic_score("<answer>12</answer> no: <answer>7</answer>", verify) == 0
    assert logic_score("<answer>12</answer> or <answer>7", verify) == 1  # the last one was cut off
    assert logic_score("<answer>12</answer> stray </answer>", verify) == 1
    assert logic_score("the <answer> tag: <answer>12</answer>", verify) == 1
    incomplete = ["<answer>12", "12</answer>", "</answer>12<answer>", "<Answer>12</Answer>"]
    for response in ["", "12", *incomplete]:
        assert logic_score(response, verify) == 0
    # The library grants partial credit.
    assert 0 < logic_score(tagged("12 or so"), verify) < 1
    assert logic_score(tagged("12" + "0" * 5_000), verify) == 0


@needs_gym
def test_halting_compares_words_not_truthiness(held_out):
    for problem in (one for one in held_out if one.task == "game_of_life_halting"):
        wrong = "False" if problem.answer == "True" else "True"
        assert logic_score(tagged(problem.answer.lower()), problem.verify) == 1
        assert logic_score(tagged(wrong), problem.verify) == 0
        assert logic_score(tagged("maybe"), problem.verify) == 0


@needs_gym
def test_scoring_leaves_the_entry_alone_and_prints_nothing(capfd):
    puzzle = {"num_disks": 1, "num_pegs": 3, "start_peg": 1, "target_peg": 2, "solution_length": 1}
    entry = {"answer": "Move disk 1 from Peg 1 to Peg 2", "metadata": puzzle}
    verify = {"task": "tower_of_hanoi", "entry": entry}
    before = json.dumps(entry)
    assert logic_score(tagged("Move disk 1 from Peg 4 to Peg 2"), verify) < 1
    assert logic_score(tagged(entry["answer"]), verify) == 1
    assert json.dumps(entry) == before
    assert capfd.readouterr() == ("", "")


# --- attacks ---

EVALUATING = (
    "binary_matrix", "countdown", "n_queens", "polynomial_multiplication", "spiral_matrix",
    "string_insertion",
)  # fmt: skip

ATTACKS = [
    "9**9**9**9", "((x+1)**99)**99", "x**9**9**9", "x**99999999", "1e999999999", "1E-999_999_999",
    "N(9,99999999)", "R999999999", "R9 " * 1300, "A+99999999999999", "nan", "NaN+nanj", "-inf",
    "[NaN]", "9" * 3900, "1×" * 1900, "(" * 3900, "[" * 3900, '{"a":' * 900, "-" * 3900 + "1",
    "¬" * 3900, "P∧" * 1900 + "P", "9/" * 1900 + "1", "[0 for a in 'aaaaaaaaa' * 99]",
    "[0for a in'x'for b in'x']", "factorial(99999999)", "1/0", "a, " * 1300, "\ud800\x00",
    '[{"Agent[0.5, 0.5]": "move(' + "a, " * 1200 + '"}]', "Move disk 1 from Peg 1 to Peg 9\n" * 99,
]  # fmt: skip


@needs_gym
def test_hostile_answers_neither_run_nor_hang_nor_win(train, held_out, tmp_path):
    mark = tmp_path / "run"
    attacks = [
        f"open({str(mark)!r}, 'w')",
        f"__import__('pathlib').Path({str(mark)!r}).touch()",
        *ATTACKS,
    ]
    for problem in (train + held_out)[::2] + held_out[:3]:
        logic_score(tagged("~"), problem.verify)  # the verifier's own data are loaded
        for attack in attacks:
            began = time.perf_counter()
            score = logic_score(tagged(attack), problem.verify)
            assert time.perf_counter() - began < 5, (problem.task, attack[:40])
            assert 0 <= score < 1 or problem.answer in ("", attack), (problem.task, attack[:40])
    assert not mark.exists()


@needs_gym
def test_the_refusals_are_needed_and_let_honest_answers_pass(train, monkeypatch, tmp_path):
    """Without its entry in REFUSED, each task whose verifier runs code does run the attack's."""
    first = {problem.task: problem for problem in reversed(train)}
    for task in EVALUATING:
        problem = first[task]
        mark = tmp_path / task
        attack = tagged(f"open({str(mark)!r}, 'w')")
        logic_score(attack, problem.verify)
        assert not mark.exists()
        with monkeypatch.context() as context:
            context.delitem(REFUSED, task)
            logic_score(attack, problem.verify)
        assert mark.exists(), task
    numbers = first["number_sorting"]
    nans = tagged(json.dumps([float("nan")] * len(json.loads(numbers.answer.replace("'", '"')))))
    assert logic_score(nans, numbers.verify) == 0
    monkeypatch.delitem(REFUSED, "number_sorting")
    assert logic_score(nans, numbers.verify) == 1
    spiral = first["spiral_matrix"]
    as_json = json.dumps([int(number) for number in spiral.answer.split()])
    assert logic_score(tagged(as_json), spiral.verify) == 0.1
    coins = {"task": "coin_flip", "entry": {"answer": "6.103515625e-05"}}
    assert logic_score(tagged("6.103515625e-05"), coins) == 1
