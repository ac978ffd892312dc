r"""Say what a gold and an answer are read as, and why they are equal or not.

python -m verifier '\frac12' 'x = 50\%'
"""

import sys
from fractions import Fraction

import mpmath

from .compare import choice, equal, number, trees
from .normalise import key, normalise
from .parse import symbols
from .read import elements, read, relations
from .regions import region
from .units import Unit, conflict
from .values import values


def reading(text: str) -> str:
    """What `text` is read as, in plain words."""
    letter, rest = choice(text)
    if letter:
        return f"choice {letter}" + (f", which is {reading(rest)}" if rest else "")
    latex, unit, _ = normalise(text)
    powers = [name if n == 1 else f"{name}^{n}" for name, n in unit.powers.items()]
    ending = f", with the unit {' '.join([*powers, *unit.words])}" if unit != Unit() else ""
    if found := region(latex):
        pieces = [("(["[a] + left + ", " + right + ")]"[b]) for left, a, right, b in found.pieces]
        what = "point or interval" if elements(latex) else "part of the real line"
        return f"the {what} {' and '.join(pieces)}{ending}"
    kind, solutions = read(latex)
    each = [[f"{n} = {one}" if n else one for n, one in every.items()] for every in solutions]
    if len(each) > 1:
        what = "set" if kind else "list"
        return f"a {what} of {len(each)}: {'; '.join(map(', '.join, each))}{ending}"
    if "" in solutions[0]:
        return value(each[0][0]) + ending
    return f"the solution {', '.join(each[0])}{ending}"


def value(latex: str) -> str:
    if relations(latex)[1]:
        return f"the relation {latex}"
    if elements(latex):
        return f"the tuple {latex}"
    if trees(latex) is None:
        return f"{latex}, which is not understood: it is equal only by its spelling"
    exact = number(latex)
    return f"the expression {latex}" if exact is None else f"{latex}, the number {exact}"


def reason(answer: str, gold: str, verdict: bool) -> str:
    """Why, in plain words."""
    (one, unit, whole), (other, gold_unit, gold_whole) = normalise(answer), normalise(gold)
    both, readings = trees(one, other), (read(one), read(other))
    if not verdict and choice(gold)[0]:
        return "neither the letter nor the text of the choice is the answer's"
    if not verdict and conflict(unit, gold_unit):
        return "their units contradict each other"
    if key(whole) == key(gold_whole):
        return "they are spelled alike"
    if region(one) and region(other):
        return f"they are {'the same part' if verdict else 'different parts'} of the real line"
    if both and len(readings[0].solutions) == len(readings[1].solutions) == 1:
        for a, b in zip(*map(values, both), strict=False):
            if not verdict and None not in (a.value, b.value) and a.value != b.value:
                place = "" if symbols(both[0]) | symbols(both[1]) == set() else " at one point"
                return f"their values differ{place}: {short(a.value)} and {short(b.value)}"
        return "their values agree at every point that is tried" if verdict else "they differ"
    counts = [len(side.solutions) for side in readings]
    if not verdict and counts[0] != counts[1]:
        return f"the answer has {counts[0]} parts and the gold {counts[1]}"
    if verdict:
        return "each part of the one has its equal in the other"
    missing = [
        text for solution in readings[1].solutions for name, part in solution.items()
        if not any(equal(each.get(name, ""), part) for each in readings[0].solutions)
        for text in [f"{name} = {part}" if name else part]
    ]  # fmt: skip
    return f"nothing in the answer equals {missing[0]}" if missing else "their parts do not match"


def short(number) -> str:
    return str(number) if isinstance(number, Fraction) else mpmath.nstr(number, 6)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m verifier GOLD ANSWER")
    gold, answer = sys.argv[1:]
    verdict = equal(answer, gold)
    print(f"gold:   {reading(gold)}\nanswer: {reading(answer)}")
    print(f"{'equal' if verdict else 'not equal'}: {reason(answer, gold, verdict)}")
