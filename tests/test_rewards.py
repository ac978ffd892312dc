"""The rewards: the strict box by its definition, the robust verifier by pairs and attacks."""

import json
import random
import time
from pathlib import Path

import pytest

import rewards
from rewards import (
    deepscaler_match,
    last_answer,
    last_boxed,
    overlong_penalty,
    robust,
    robust_many,
    strict_box,
)

HERE = Path(__file__).parent
PAIRS = [json.loads(line) for line in (HERE / "answer_pairs.jsonl").read_text().splitlines()]


def box(answer: str) -> str:
    return r"So the answer is $\boxed{" + answer + "}$."


# ---------------------------------------------------------------- strict box


@pytest.mark.parametrize(
    ("response", "answer", "reward"),
    [
        (r"\boxed{42}" + "x" * 90, "42", 1),  # the box just fits into the last 100 characters
        (r"\boxed{42}" + "x" * 91, "42", -1), (r"\boxed{1} then \boxed{42}", "42", 1),
        (r"\boxed{42} then \boxed{1", "42", -1),  # an unclosed later box voids the good one
        (r"\boxed{1\}}", "1\\", 1),  # an escaped brace closes like any other
        (r"\boxed{\boxed{42}}", "42", 1), (r"\boxed{}", "", 1), (r"\boxed {42}", "42", -1),
        (r"\boxed{ 42}", "42", -1), (r"\boxed{042}", "42", -1), ("42", "42", -1), ("", "", -1),
    ],
)  # fmt: skip
def test_strict_box_quirks(response, answer, reward):
    assert strict_box(response, answer) == reward


def test_last_boxed_reads_the_whole_text():
    assert last_boxed(r"\boxed{1}" + "x" * 1000) == "1"
    assert last_boxed("nothing") is None
    assert last_boxed(r"\boxed{" + "{" * 5000 + "1" + "}" * 5001) == "{" * 5000 + "1" + "}" * 5000


# ---------------------------------------------------------------- overlong penalty, DeepScaleR


def test_overlong_penalty_follows_dapo():
    penalties = [overlong_penalty(n, 15_360, 4_096) for n in (0, 11_264, 11_265, 13_312, 15_360)]
    assert penalties == [0.0, 0.0, -1 / 4096, -0.5, -1.0]
    for buffer in (0, -1, 15_361):
        with pytest.raises(ValueError, match="overlong buffer"):
            overlong_penalty(1, 15_360, buffer)


@pytest.mark.parametrize(
    ("answer", "gold", "reward"),
    [
        (r"\dfrac12", r"\frac{1}{2}", 1), ("1/2", r"\frac{1}{2}", 1), ("0.5", r"\frac{1}{2}", 1),
        (".5", "0.5", 1), ("x = 5", "5", 1), (r"\left( 1, 2 \right)", "(1,2)", 1),
        (r"30^\circ", "30", 1), (r"5 \text{ cm}", "5", 1), (r"\$18\%", "18", 1),
        (r"\sqrt2", r"\sqrt{2}", 1), (r"\text{east}", "east", 1),
        ("2x+1", "1+2x", -1),  # a string match knows no algebra
        (r"42 \text{ or } 43", "43", -1), ("(2,1)", "(1,2)", -1), ("1", "2", -1),
    ],
)  # fmt: skip
def test_deepscaler_match(answer, gold, reward):
    assert deepscaler_match(box(answer), gold) == reward
    assert deepscaler_match(gold, gold) == -1  # no box


# ---------------------------------------------------------------- robust: equal or not


def test_robust_on_the_table_of_pairs():
    boxes, golds = [box(pair["answer"]) for pair in PAIRS], [pair["gold"] for pair in PAIRS]
    verdicts = robust_many(boxes, golds)
    pairs = zip(PAIRS, verdicts, strict=True)
    assert [pair for pair, verdict in pairs if (verdict == 1.0) != pair["equal"]] == []
    assert len(PAIRS) > 350 and set(verdicts) == {1.0, -1.0}


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{3}, \boxed{5}, \boxed{7}", "3, 5, 7"),
        (r"$\boxed{3}$, $\boxed{5}$ and $\boxed{7}$.", "3, 5, 7"),
        (r"\boxed{3} \text{ or } \boxed{5}", "3 or 5"),
        (r"\boxed{3}\quad\text{and}\quad\boxed{5}", "3, 5"),
        (r"So \boxed{(1,2)}, \boxed{(3,4)}", "(1,2), (3,4)"), ("\\boxed{42}\n\n\\boxed{42}", "42"),
        ("\\boxed{41}\n\n\\boxed{42}", "42"),  # no comma: the last one counts
        (r"\boxed{3}, then I checked: \boxed{5}", "5"), (r"\boxed{\boxed{42}}", "42"),
        (r"\boxed{3}, \boxed{5", None), ("nothing", None), (r"\boxed {7}", "7"),
        (r"$\boxed 7$", "7"), (r"\fbox{7}", "7"), (r"\boxed{\}}", r"\}"), (r"a \boxed part", None),
        (r"$x=\boxed{1}$ or $x=\boxed{-2}$", "1 or -2"), (r"\boxed{1} \quad \boxed{2}", "1, 2"),
        (r"$a=\boxed{1}$ and $b=\boxed{2}$", "a = 1, b = 2"),
    ],
)  # fmt: skip
def test_boxes_that_form_a_list_are_one_answer(response, answer):
    assert last_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "gold", "reward"),
    [
        (r"\boxed{42} no, \boxed{43}", "43", 1), (r"\boxed{42} no, \boxed{43}", "42", -1),
        (r"\boxed{42} and \boxed{", "42", -1), ("the answer is 42", "42", -1),
        (r"\boxed{7}, \boxed{3} and \boxed{5}", "3,5,7", 1),
        (r"\boxed{3}, \boxed{5}", "3,5,7", -1), (r"\boxed{3}, \boxed{5}", "5", -1),
        (r"\boxed{42} or \boxed{43}", "43", -1),
        # What is too large to be evaluated is right where it is spelled like the gold.
        (box("9^{9^{9^9}}"), "9^{9^{9^{9}}}", 1), (box("7" * 1000), "7" * 1000, 1),
        # A gold whose braces do not match is not cut to its start.
        (box("x"), "x}^2+1", -1), (box(r"e\pi"), r"e\pi }+1", -1),
        # A value that is not text is wrong, not fatal.
        *((junk, "42", -1) for junk in (None, 42, b"42", ["42"], "")), (box("42"), "", -1),
    ],
)  # fmt: skip
def test_robust_judges_the_final_answer(response, gold, reward):
    assert robust(response, gold) == reward


def test_robust_many_equals_one_by_one_and_judges_equal_pairs_once(monkeypatch):
    sample = random.Random(0).sample(PAIRS, 60)
    responses = [box(pair["answer"]) for pair in sample] * 2
    golds = [pair["gold"] for pair in sample] * 2
    asked = []
    equal = rewards.equal
    monkeypatch.setattr(rewards, "equal", lambda *pair: asked.append(pair) or equal(*pair))
    batch = robust_many(responses, golds)
    assert len(asked) == len(set(asked)) > 50
    assert batch == [robust(*pair) for pair in zip(responses, golds, strict=True)]
    assert robust_many([], []) == []
    with pytest.raises(ValueError):
        robust_many(["a"], [])


# ---------------------------------------------------------------- robust: hostile input

HOSTILE = {
    "tower": "9^{9^{9^9}}", "tower of tens": "10^{10^{10^{10}}}", "tower ascii": "9**9**9**9",
    "tower bare": "9^9^9^9", "tower in parentheses": "(((9^{999})^{999})^{999})^{999}",
    "tower divided": r"\frac{9^{9^{9^{9}}}}{9^{9^{9^{9}}}}", "large exponent": "2^{100000000}",
    "modulus": r"7^{7^{7^7}} \bmod 10", "factorial": "100000000!", "factorials": "((9!)!)!",
    "factorial bangs": "9!!!!!!!!", "factorial quotient": r"\frac{9999999!}{9999998!}",
    "factorial medium": "9999!", "binomial": r"\binom{100000000}{50000000}",
    "binomials": r"\binom{\binom{999}{99}}{\binom{999}{9}}",
    "product": r"\prod_{i=1}^{100000000} i", "sum": r"\sum_{i=1}^{10^9} \frac{1}{i^2}",
    "integral": r"\int_0^1 e^{\sin(x^x)} dx",
    "limit": r"\lim_{x\to 0} \frac{\sin(\tan x)-\tan(\sin x)}{x^7}",
    "braces": "{" * 5000 + "42" + "}" * 5000, "short braces": "{" * 140 + "42" + "}" * 140,
    "parentheses": "(" * 140 + "42" + ")" * 140, "roots": r"\sqrt{" * 400 + "2" + "}" * 400,
    "short roots": r"\sqrt{" * 40 + "2" + "}" * 40,
    "fractions": r"\frac{1}{1+" * 24 + "x" + "}" * 24, "long number": "7" * 100_000,
    "long text": "x" * 1_000_000, "long sum": "+".join(["x"] * 140),
    "long list": ",".join("123456789" * 15), "long spaces": " " * 280 + "42 x",
    "backslashes": "\\" * 299 + "x", "commas": "," * 299,
    "mixed junk": r"\frac\sqrt^_\left(\right]" * 11, "polynomial": "(x+y+z+w)^{999}",
    "roots of sums": r"\sqrt{2+\sqrt{3+\sqrt{5+\sqrt{7+\sqrt{11+\sqrt{13}}}}}}",
    "trigonometry": r"\sin(\cos(\tan(\sin(\cos(\tan(x))))))^{99}",
    "matrix power": r"\begin{pmatrix} x & y \\ z & w \end{pmatrix}^{9999}", "empty": "",
    "space": " ", "braces empty": "{}", "nul": "4\x002", "surrogate": "4\ud8002",
    "surrogate word": "\udcff", "emoji": "🧮" * 70, "full width": "４２", "arabic digits": "٤٢",
    "right to left": "\u202e24", "superscripts": "2²²²²²²", "none": "None", "nan": "nan",
    "not a pair": '["42", "43"]\n["42", "42"]', "import": "__import__('os').system('touch CANARY')",
    "import in text": r"\text{__import__('os').system('touch CANARY')}",
    "eval": "eval(compile('open(\"CANARY\",\"w\")','','exec'))",
    "lambda": "(lambda: open('CANARY','w'))()",
    "attribute": "().__class__.__base__.__subclasses__()", "print": "print(open('CANARY','w'))",
    "shell": "$(touch CANARY)", "latex write": r"\immediate\write18{touch CANARY}",
    "latex loop": r"\def\x{\x\x}\x",
    "words": "1 " + "ab " * 90 + "!", "unit powers": "5 " + "m^2 " * 60 + "?",
    "assignments": "a=" * 140 + "1", "about": "about " * 190 + "1",
    "text": r"\text{about " * 90 + "}" * 90, "signs": r"\pm 1," * 60,
    "special functions": r"\Gamma(99i+\frac13)" * 12, "binomials of x": r"\binom{x}{y}" * 24,
    "powers": "x^{x^{x^{x^{x^x}}}}", "polynomials": "(x+1)^{2000}" * 20,
    "large factorials": "4999!" * 40, "bars": "|x" * 140, "list": r"\sqrt{x}," * 30 + "y",
    "union": r"(1,2)\cup" * 30 + "(1,3)", "nested": "(" * 250 + "1,2" + ")" * 250,
    "functions": r"\sin" * 60 + "x",
    "matrix": r"\begin{pmatrix}" + r"1&2\\" * 40 + r"\end{pmatrix}",
}  # fmt: skip


def test_hostile_answers_and_golds_are_rejected_in_time(tmp_path):
    canary = tmp_path / "canary"
    for name, text in HOSTILE.items():
        text = text.replace("CANARY", str(canary))
        pairs = [pair for other in ("42", r"\sqrt{x}+1") for pair in ((text, other), (other, text))]
        for answer, gold in (*pairs, (text, text + "+y")):
            start = time.process_time()
            verdict = robust(box(answer), gold)
            assert time.process_time() - start < 4, name
            assert verdict == -1 or name in ("full width", "arabic digits"), (name, answer, gold)
        for judge in (strict_box, deepscaler_match):
            start = time.process_time()
            assert judge(box(text), "42") in (-1, 1)
            assert judge(box("y"), text) == -1
            assert time.process_time() - start < 4, name
    assert not canary.exists()


def test_random_junk_never_raises():
    rng = random.Random(0)
    pieces = [
        *r"0123456789.,+-*/^_!%()[]{}=<>:$ \exXAC", r"\frac", r"\sqrt{", r"\overline", r"\text{",
        r"\cup", r"\pm", "10^",
    ]  # fmt: skip
    for _ in range(5_000):
        answer, gold = ("".join(rng.choices(pieces, k=rng.randint(1, 9))) for _ in range(2))
        assert rewards.equal(answer, gold) in (True, False), (answer, gold)


@pytest.mark.parametrize(
    "answer",
    [
        *(r"42 \text{ or } 43", r"\{42, 43\}", "42, 43", "42 43", r"\pm 42", r"42 = 43",
            r"[42, 43]", r"x \in \{42, 43\}"),
        *(r"\mathbb{R}", r"\mathbb{Z}", r"[0, \infty)", "x", r"\text{any number}", "answer", "gold",
            "41 + x", "42 + 0x + y"),
    ],
)  # fmt: skip
def test_hedged_and_empty_answers_earn_nothing(answer):
    assert robust(box(answer), "42") == -1


def test_a_step_of_2048_answers_takes_seconds():
    rng = random.Random(0)
    golds = [str(rng.randint(0, 999)) for _ in range(256) for _ in range(8)]
    answers = [
        rng.choice([gold, str(rng.randint(0, 999)), f"{gold}+0", r"\frac{x}{2}"]) for gold in golds
    ]
    start = time.process_time()
    robust_many([box(answer) for answer in answers], golds)
    assert time.process_time() - start < 10
