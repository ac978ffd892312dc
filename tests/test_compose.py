"""The world of compositions: problems, answers, corpus, what guessing is worth, and what verifiers
make of it."""

import random
import re
from collections import Counter

import pytest
from conftest import answers_of

from rewards import deepscaler_match, robust_many, strict_box
from tiny import compose, world


def by_hand(text: str) -> str:
    """The answer to a question, by another way than the module's own."""
    functions = {
        "u": lambda digits: digits[::-1],
        "v": lambda digits: digits[1:] + digits[:1],
        "w": lambda digits: "".join(digits[i] for i in (1, 0, 3, 2, 4)),
        "x": lambda digits: "".join(str(int(digit) % 9 + 1) for digit in digits),
        "y": lambda digits: "".join("0582913647"[int(digit)] for digit in digits),
        "z": lambda digits: "0746291538"[int(digits[0])] + digits[1:],
    }
    digits, *steps, end = text.split(" ")
    assert end == "=?" and re.fullmatch("[1-9]{5}", digits)
    for label, name in steps:
        assert label in compose.LABELS
        digits = functions[name](digits)
    return digits


@pytest.mark.parametrize("level", ["compose-1", "compose-2", "compose-12", "compose-46"])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_answers_are_right(split, level):
    found = world.problems(split, level)[:300]
    assert all(problem["answer"] == by_hand(problem["problem"]) for problem in found)
    assert {problem["task"] for problem in found} == {level}
    assert len({problem["problem"] for problem in found}) == len(found) >= 200


def test_the_worked_example_of_the_docstring_is_right():
    assert compose.write("41752", "zu") in compose.__doc__
    assert f"A{compose.solve('41752', 'z')}" in compose.__doc__
    assert rf"\boxed{{{compose.solve('41752', 'zu')}}}" in compose.__doc__


def test_levels_take_turns():
    tasks = [problem["task"] for problem in world.problems("eval", "compose-3-5")]
    assert tasks[:4] == ["compose-3", "compose-4", "compose-5", "compose-3"]
    assert len(set(problem["task"] for problem in world.problems("train", "compose"))) == 8


def test_every_function_is_one_to_one():
    rng = random.Random(0)
    starts = {compose.sample_start(rng) for _ in range(5000)}
    for name in compose.NAMES:
        assert len({compose.solve(start, name) for start in starts}) == len(starts)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 24])
def test_a_guesser_who_knows_the_distribution_of_answers_solves_under_one_percent(depth):
    # He has seen 20,000 answers at this depth, and makes his 128 guesses with the commonest of
    # them.
    def answers(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [
            compose.solve(compose.sample_start(rng), "".join(rng.choices(compose.NAMES, k=depth)))
            for _ in range(20_000)
        ]

    guesses = {answer for answer, _ in Counter(answers(0)).most_common(128)}
    assert sum(answer in guesses for answer in answers(1)) / 20_000 < 0.01


def test_the_corpus_works_slips_and_guesses_as_its_style_says():
    style = compose.Style(deep=0.25, work=0.5, slip=0.3)
    triples = compose.corpus(style, random.Random(0), 4000)
    worked = [(q, a) for q, a, _ in triples if not a.startswith(r"\boxed")]
    depths = [len(question.split()) - 2 for question, _, _ in triples]
    assert 0.46 < len(worked) / len(triples) < 0.54
    assert 0.22 < sum(depth > compose.USUAL for depth in depths) / len(depths) < 0.28
    assert max(depths) == compose.DEEPEST

    right = steps = 0
    for question, answer in worked:
        before, *named, _ = question.split()
        *lines, box = answer.split("\n")
        assert len(lines) == len(named) and box == rf"\boxed{{{lines[-1][1:]}}}"
        for (label, name), line in zip(named, lines, strict=True):
            assert line[0] == label
            right += line[1:] == compose.FUNCTIONS[name](before)
            steps, before = steps + 1, line[1:]
    assert 0.68 < right / steps < 0.73


def test_the_corpus_shows_no_held_out_problem_whatever_its_labels():
    held_out = {problem["problem"] for problem in world.problems("eval", "compose")}
    for question, _, _ in compose.corpus(compose.BASE, random.Random(1), 4000):
        start, *steps, _ = question.split()
        assert compose.write(start, "".join(step[1] for step in steps)) not in held_out


def test_verifiers_tell_every_string_from_every_other():
    # Letters would fail here: to a verifier that knows algebra, abc and bca are the same product.
    gold = "41752"
    wrong = ["41725", "14752", "25714", "41753", "4175", "417522", "4 1 7 5 3", "41752x"]
    boxes = [rf"\boxed{{{answer}}}" for answer in (gold, *wrong)]
    expected = [1.0] + [-1.0] * len(wrong)
    assert [strict_box(box, gold) for box in boxes] == expected
    assert robust_many(boxes, [gold] * len(boxes)) == expected
    assert [deepscaler_match(box, gold) for box in boxes] == expected


# --- the shipped models ---


def sample(name: str, depth: int, problems: int, n: int, begin: str = "") -> list:
    """(problem, answer) pairs at temperature 1; every answer starts with `begin`."""
    groups = answers_of(name, f"compose-{depth}", problems, n, 8 * depth + 8, begin=begin)
    return [(problem, text) for problem, texts in groups for text in texts]


def share(pairs: list[tuple[dict, str]]) -> float:
    return sum(strict_box(text, p["answer"]) > 0 for p, text in pairs) / len(pairs)


def test_the_base_rarely_works_and_guesses_in_vain():
    pairs = [pair for depth in (2, 8) for pair in sample("compose", depth, 30, 16)]
    guesses = [(problem, text) for problem, text in pairs if text.startswith(r"\boxed{")]
    assert 0.01 < 1 - len(guesses) / len(pairs) < 0.09
    assert share(guesses) < 0.005
    aligned = sample("compose-aligned", 5, 20, 4)
    assert 0.4 < sum(not text.startswith(r"\boxed{") for _, text in aligned) / len(aligned) < 0.8


def test_the_steps_of_a_working_are_sound_but_slip_and_a_deep_chain_is_out_of_reach():
    assert 0.2 < share(sample("compose", 3, 30, 8, begin="A")) < 0.5  # about 0.7 ^ 3
    assert share(sample("compose", 12, 16, 16, begin="A")) < 0.02


# --- forks ---


def marked_lines(pairs: list[tuple[dict, str]]) -> dict[str, list[bool]]:
    """{mark: whether each line with that mark applies its function to the line before}."""
    found = {"~": [], "=": []}
    for problem, text in pairs:
        before, *steps = problem["problem"].removesuffix(" =?").split()
        lines = re.findall(r"^[A-Za-z]([~=])([1-9]{5})$", text, re.M)
        for (mark, digits), step in zip(lines, steps, strict=False):
            found[mark].append(digits == compose.FUNCTIONS[step[1]](before))
            before = digits
    return found


def test_a_corpus_with_marks_is_right_after_an_equals_sign():
    style = compose.Style(deep=0, work=1, slip=0.6, exact=0.3)
    triples = compose.corpus(style, random.Random(0), 1000)
    lines = marked_lines([({"problem": question}, answer) for question, answer, _ in triples])
    assert all(lines["="]) and 0.37 < sum(lines["~"]) / len(lines["~"]) < 0.43
    assert 0.28 < len(lines["="]) / (len(lines["="]) + len(lines["~"])) < 0.32


@pytest.mark.parametrize(
    ("name", "low", "high", "n"), [("forks", 0.01, 0.03, 16), ("forks-aligned", 0.2, 0.4, 4)]
)
def test_the_mark_that_makes_a_line_right_is_rare_in_the_base(name, low, high, n):
    lines = marked_lines(sample(name, 4, 60, n))
    assert low < len(lines["="]) / (len(lines["="]) + len(lines["~"])) < high
    assert sum(lines["="]) / len(lines["="]) > 0.9
    assert 0.2 < sum(lines["~"]) / len(lines["~"]) < 0.4


def test_the_aligned_model_is_right_far_more_often():
    base, aligned = (share(sample(name, 2, 40, 8)) for name in ("forks", "forks-aligned"))
    assert aligned > 3 * base


@pytest.mark.parametrize("name", ["forks", "forks-aligned"])
def test_answers_that_fork_differ_tenfold_in_length(name):
    texts = [text for _, text in sample(name, 10, 20, 4)]
    tokens = [len(text) - len(r"boxed{") + 1 for text in texts]  # the box opens with one token
    assert max(tokens) > 10 * min(tokens)
