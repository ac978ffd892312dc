"""The verifier: kinds of answers, right and wrong, and that nothing outside decides a verdict."""

import json
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest

from verifier import equal
from verifier.compare import LONGEST
from verifier.normalise import normalise
from verifier.parse import Unreadable, parse
from verifier.units import Unit, conflict, parse_unit
from verifier.values import same, values

HERE = Path(__file__).parent
PAIRS = [json.loads(line) for line in (HERE / "answer_pairs.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- kinds of answers


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        # Letters keep their case.
        (r"\frac{M}{m}", [r"M/m", r"\frac{1}{m} M"], ["1", r"\frac{m}{M}", r"\frac{m}{m}"]),
        ("d^2 = R^2 - 2Rr", ["d^2 = R(R-2r)", "R^2-2Rr=d^2"], ["d^2 = -R^2", "d^2 = r^2-2Rr"]),
        ("2Aa", ["2aA"], ["2a^2", "2A^2", "2AA", "2a"]),
        # A derivative or a differential is a letter of its own.
        (r"\frac{dx}{dt}=kx-a", [r"\frac{dx}{dt} = -a+kx"], [r"\frac{dx}{dt}=a-kx", "0=kx-a"]),
        (r"\frac{\partial u}{\partial x}", [], [r"\frac{u}{x}", "0"]),
        ("y''+y=0", [r"y+y''=0", "y^{\\prime\\prime} + y = 0"], ["y'+y=0", "y''-y=0", "y=0"]),
        ("2x\\,dx", ["2x dx"], ["2x^2", "2x dy", "2dx"]),
        # Functions of several letters, known and unknown.
        (r"\gcd(k,p-1)", [r"\gcd(p-1, k)", "gcd(k,p-1)"], ["1", "k", r"\gcd(k,p)", r"k(p-1)"]),
        (r"\gcd(12, 18)", ["6"], ["36", "12"]), (r"\operatorname{lcm}(4,6)", ["12"], ["2", "24"]),
        (r"\max(a,b)", [r"\max(b,a)"], [r"\min(a,b)", "ab", "a"]),
        ("f(2x)", ["f(x+x)"], ["2f(x)", "f(x)^2", "f(2y)"]),
        (r"\varphi(n)", [r"\phi(n)"], [r"\phi(m)", "n"]),
        # Both sides cancel.
        ("AB=BA", ["BA=AB"], ["0=0", "1=1", "AB=AB+0", "CD=DC"]),
        ("x+1=1+x", ["1+x=x+1"], ["0=0", "2+y=y+2"]),
        # Names that elsewhere are constants or functions.
        (r"\gamma", [r"\gamma"], ["0.5772156649", "C", r"\Gamma"]),
        ("E_1", ["E_{1}"], ["2.718281828", "E_2", "e_1", "E"]),
        ("I+S", ["S+I"], ["i+S", "I-S", "IS"]),
        (r"\frac{N}{Q}", ["N/Q"], [r"\frac{Q}{N}", "N", r"\frac{n}{q}"]),
        (r"\beta\zeta", [r"\zeta\beta"], [r"\beta", r"B\zeta", r"\zeta(\beta)"]),
        (r"2\mathbf{i}+3\mathbf{j}", ["2i+3j"], ["2j+3i", "2i-3j", "2i"]),
        ("i^2 + j", ["j+i^2"], ["j-1"]), ("A^{-1}B", ["A^{-1} B"], ["BA^{-1}", "AB^{-1}"]),
        # An interval and an inequality.
        (r"(3,\infty)", ["x > 3", "3<x", r"\{x \mid x>3\}"], [r"x \ge 3", "x<3", "x=3"]),
        ("[2,5)", [r"t\in[2,5)"], ["2<x<5", "(2,5)"]),
        (r"x \le -1 \text{ or } x > 2", [r"(-\infty,-1]\cup(2,\infty)"],
            [r"(-1,2]", r"(-\infty,-1)\cup(2,\infty)"]),
        (r"(-\infty,2)\cup(2,\infty)", [r"\mathbb{R}\setminus\{2\}"], ["x=2"]),
        ("|x|<3", ["(-3,3)", "-3<x<3"], ["(0,3)", r"[-3,3]", "|x|>3", "|y|<3"]),
        ("x>2 or x<0", ["x<0 or x>2"], ["x>2 and x<0"]),
        # Remarks.
        (r"\frac{737}{39}",
            [r"\frac{737}{39} \approx 18.9"],
            [r"\frac{737}{39} \approx 19.9", r"18.9 \approx \frac{737}{39}"]),
        (r"\frac{1}{2}", [r"\frac12 \text{ (or } 0.5)", r"\large \frac12"],
            [r"\frac12 \text{ (or } 0.6)", r"\large 2"]),
        (r"\binom{5}{2}", [r"{5\choose2}", r"{5 \choose 3}"], [r"{5\choose1}"]),
        (r"\frac{2}{\pi}-1", [r"-1+\frac2\pi"], [r"\frac{2}{\pi-1}"]),
        ("42", [r"42 \text{ (minimum)}", "6 \\cdot 7 = 42"],
            [r"43 \approx 42", r"42 \text{ if } x>0", r"\text{not } 42"]),
        # Lists.
        ("81,256", [r"81 \text{ and } 256"], ["81, 256, 1"]),
        ("81256", ["81,256", "81 256"], ["81, 256", "8,1256"]),
        (r"\{5\}", ["5", r"\{5\}"], ["6", r"\{5,6\}"]),
        # Units.
        ("15", [r"15\text{ km/h}", r"15\ \mathrm{km\,h^{-1}}", "15 kg m^2"], ["16 km/h"]),
        ("15 km/h", ["15", r"15 \text{ km per hour}", "15 kph"], ["15 m/s", "15 km", "1.5 km/h"]),
        ("9.8 m/s^2", ["9.8", r"9.8\,\frac{\text{m}}{\text{s}^2}", r"9.8\text{ m/s}^2"],
            ["9.8 m/s", "9.8 ft/s^2"]),
        ("5 J/(kg K)", ["5"], ["5 J", "5 J/(kg s)"]),
        # Domains and digits.
        (r"\ln|x|", [r"\frac12\ln x^2"], [r"\ln x"]), (r"|x|", [r"\sqrt{x^2}"], ["x", "-x"]),
        ("e^{100}+1", ["1+e^{100}"], ["e^{100}", "e^{100}+2"]),
        ("2^{2000}-1", [r"2\cdot 2^{1999}-1"], ["2^{2000}", "2^{2000}+1"]),
        (r"\sin 30^\circ", [r"\frac12"], [r"\sin 30"]),
        # A decimal is an interval of its own, whatever stands beside it.
        (r"P=1.5\times10^{8}t", [r"1.5\times10^8 t"], [r"3.0\times10^8 t", r"P=3.0\times10^8t"]),
        ("y=10000000x", ["y=10000000.0x"], ["y=20000000.0x"]),
        ("2x+10000000.5y=5", ["4x+20000001y=10"], ["2x+20000000.5y=5", "2x+10000000.5y=6"]),
        # A letter before a number in brackets is a function.
        ("I(0)e^{-t/RC}", ["e^{-t/RC}I(0)"], ["0", "I(1)e^{-t/RC}"]),
        (r"\frac{n(-1)^n}{2}", [r"(-1)^n\frac{n}{2}"], [r"\frac{n}{2}"]),
        # Thousands.
        ("10,000", ["10000", "10{,}000"], ["10, 0"]), ("1,005", ["1005"], ["1, 5"]),
        ("1{,}250", ["1250"], ["1, 250"]),
        # Units and words that contradict each other.
        (r"\$5", ["5 dollars"], [r"5\%", "5 cm", r"5^\circ"]),
        (r"25^\circ C", ["25", r"25^\circ", "25 ℃"], [r"25^\circ F", "25 cm"]),
        ("5 km north", ["5 km", "5"], ["5 km south", "5 m"]), ("5 apples", ["5"], ["5 pears"]),
        # What an equation may lose.
        ("x+y+z=0", ["x+y=-z"], ["0"]), ("AB=BC", ["BC=AB"], ["BC"]),
        (r"\text{(B)}", ["B"], ["A = B"]),
        ("10", ["a+b+c=10", "|z|=10", "xy=10"], ["a-b=10", "2a=10"]),
        # Solutions: maps from names to values.
        ("x=1, y=2", ["y=2, x=1", "(x,y)=(1,2)", "(1,2)"], ["x=1,2", "x=2,y=1", "x=1 or y=2"]),
        ("(4,1),(6,1)", ["a=4,b=1;a=6,b=1", "(a,b)=(6,1),(4,1)"], ["a=4,b=6;a=1,b=1", "a=4,b=1"]),
        ("x_1=1, x_2=-2", ["-2,1", r"x=1 \lor x=-2", r"x\in\{1,-2\}"], ["x=1", "1, 2"]),
        ("f(x)=2x", ["f(t)=2t", "2x"], ["f(t)=2x", "g(x)=2x"]),
        # A left side without a number is a name.
        (r"\frac{AM}{MB}=\frac23", [r"\frac23", "AM:MB=2:3"], [r"\frac32"]),
        (r"f(x)_{\min}=-3", ["-3"], ["3"]),
        # Sets in bare braces, choices, conditions, words.
        (r"\pm 7", ["{-7, 7}"], ["{7}"]), ("(2,5)", ["{2,5}"], ["{5,2}", r"\{2,5\}"]),
        (r"\textbf{(D)}\ 12", ["D", "12", "(D) 12"], ["C", "(C) 12", "(D) 13"]),
        (r"\frac{1}{x},\ x\neq1", [r"\frac1x \text{ for } x\ne1"], [r"\frac1x, x\ne2"]),
        (r"\text{A and C}", ["C, A"], ["A", "A and B", "AC"]),
        (r"\text{an ellipse}", ["ellipse"], ["a circle"]),
        (r"\text{all real numbers except } 3", [r"x\ne3"], [r"\mathbb{R}", r"x\ne4"]),
        # Matrices, vectors, determinants.
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
            [r"\left[\begin{array}{cc}1&2\\[2pt]3&4\end{array}\right]",
            r"\begin{bmatrix}1&3\cr2&4\end{bmatrix}^T"],
            [r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"]),
        (r"\begin{pmatrix}1\\-2\\3\end{pmatrix}", ["i-2j+3k", "(1,-2,3)^T"], ["i+2j+3k"]),
        (r"\begin{vmatrix}a&b\\c&d\end{vmatrix}", ["ad-bc"], ["ad+bc"]),
        # Notations.
        (r"\\frac{1}{2}", ["0.5"], [r"\frac13"]), ("6 ÷ 4", ["1½", "3/2"], ["24"]),
        ("120", ["C(10,3)", "C_{10}^{3}", r"{}_{10}C_3"], ["C(10,2)"]),
        ("(0,1)", ["]0,1["], ["[0,1]"]),
        (r"1+i\sqrt3", [r"2\operatorname{cis}60^\circ"], [r"2\operatorname{cis}30^\circ"]),
        (r"1101_{\text{two}}", ["1101_2"], ["1101_3"]),
        ("1000000", [r"1 \text{ million}"], ["1 billion"]),
        (r"\{1,2\}\cup\{3\}", [r"\{3,2,1\}"], [r"\{1,2\}"]),
        # Regions.
        (r"2\le|x|\le5", [r"[-5,-2]\cup[2,5]"], ["[2,5]"]),
        (r"(1,5)\setminus\{2\}", [r"(1,2)\cup(2,5)", r"1<x<5, x\ne2"], ["(1,5)"]),
        ("(2,7)", ["2<g(x)<7"], [r"2\le g(x)<7"]),
        # Remarks, and terms that are not understood.
        (r"\frac16", [r"\frac16 \approx 16.67\%", r"\bigl(\frac16\bigr)"],
            [r"\frac16\approx 0.27"]),
        (r"A\otimes B+C", [r"C+A\otimes B"], [r"C+B\otimes A"]),
    ],
)  # fmt: skip
def test_kinds_of_answers(gold, right, wrong):
    assert [answer for answer in right if not equal(answer, gold)] == []
    assert [answer for answer in wrong if equal(answer, gold)] == []


def test_a_verdict_is_explained():
    for gold, answer, words in (
        (r"\frac12", r"x = 50\%", "equal: they mean the same"),
        ("5 km", "5 m", "not equal: their units contradict each other"),
        ("2", r"\sqrt{3}", "answer: \\sqrt{3}, the number 1.73205"),
        ("2024!", "2023!", "gold:   2024!, the number 6.46026e+5814"),
        ("1,2", "1,2,3", "not equal: the answer has 3 parts and the gold 2"),
        (r"A\otimes B", r"B\otimes A", "is not understood: it is equal only by its spelling"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "verifier", gold, answer],
            capture_output=True, text=True, cwd=HERE.parent, check=True,
        )  # fmt: skip
        assert words in done.stdout


# ---------------------------------------------------------------- nothing outside decides


def _verdicts(pairs: list) -> list[bool]:
    return [equal(answer, gold) for answer, gold in pairs]


HARD = [(f"(x+1)^{{{n}}}(x-1)^{{{n}}}", f"(x^2-1)^{{{n}}}") for n in (*range(0, 100, 7), 99)]
HARD_UNEQUAL = (r"(x+1)^{99}(x-1)^{98}", r"(x^2-1)^{99}")


def test_threads_processes_and_clocks_decide_nothing():
    sample = random.Random(0).sample(PAIRS, 200)
    pairs = [(pair["answer"], pair["gold"]) for pair in sample] + [*HARD, HARD_UNEQUAL]
    expected = [pair["equal"] for pair in sample] + [True] * len(HARD) + [False]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(_verdicts, [pairs] * 8)) == [expected] * 8
    code = (
        "import json, mpmath, os, signal, sys, threading, time; del os.register_at_fork\n"
        "for module in time, signal:\n"
        "    vars(module).clear()\n"
        "from verifier import equal\n"
        "print(*(int(equal(*pair)) for pair in json.load(sys.stdin)))\n"
        "import rewards\n"
        "print(*{'trainer', 'losses', 'tiny', 'sympy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "7"}, cwd=HERE.parent,
        input=json.dumps(pairs), capture_output=True, text=True, check=True,
    )  # fmt: skip
    verdicts, imported = done.stdout.split("\n")[:2]
    assert [verdict == "1" for verdict in verdicts.split()] == expected
    assert imported == ""


def test_the_verifier_imports_nothing_of_ours():
    ours = re.compile(r"^(?:from|import) (?:rewards|losses|trainer|tiny|lab|bench|evaluate)", re.M)
    for path in (HERE.parent / "verifier").glob("*.py"):
        assert not ours.search(path.read_text()), path


def test_a_verdict_does_not_depend_on_the_stack():
    """What is too deep is refused by count, not by Python's recursion limit."""

    def deep(levels: int):
        return deep(levels - 1) if levels else _verdicts(sample)

    sample = [("(" * 20 + "x+1" + ")" * 20, "1+x"), HARD[-1]]
    assert deep(0) == deep(500) == [True, True]
    assert equal("(" * 21 + "x+1" + ")" * 21, "1+x") is False
    assert equal("x+" * LONGEST + "1", "1+" + "+x" * LONGEST) is False


# ---------------------------------------------------------------- the parts


@pytest.mark.parametrize("text", [
    "4 2", "x2", r"A \otimes B", "(1,2)", r"\text{dog}", "1+", "x^y^z", "|x", "", r"\frac{1}",
])  # fmt: skip
def test_parse_refuses_what_it_does_not_know(text):
    with pytest.raises(Unreadable):
        parse(text)


def test_values_are_exact_where_they_can_be():
    assert values(parse(r"\frac{2^{100}+1}{3!}"))[0].value == Fraction(2**100 + 1, 6)
    assert same(parse(r"\sqrt{2}\sqrt{3}"), parse(r"\sqrt{6}"))
    assert values(parse(r"\frac{1}{0}"))[0].value is None
    assert values(parse("9^{9^{9^9}}"))[0].value is None


def test_units():
    speeds = [parse_unit(text) for text in ("km per hour", "km/h", "kph", "kilometers per hr")]
    assert speeds == 4 * [Unit({"km": 1, "h": -1})]
    assert parse_unit("square cm") == parse_unit("cm^2") == Unit({"cm": 2})
    assert parse_unit("km north") == Unit({"km": 1}, frozenset({"north"}))
    assert conflict(Unit({"cm": 1}), Unit({"m": 1})) and not conflict(Unit(), Unit({"m": 1}))
    assert normalise(r"15\ \mathrm{cm}^2").unit == Unit({"cm": 2})
