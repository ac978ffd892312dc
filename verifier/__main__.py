r"""Say what a gold and an answer are read as, and why they are equal or not.

python -m verifier '\frac12' 'x = 50\%'
"""

import sys

import mpmath

from .brackets import elements, relations
from .compare import LONGEST, choice, equal, number, trees
from .normalise import key, normalise
from .read import read
from .regions import region
from .units import Unit, conflict


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
    each = [
        ", ".join(f"{name} = {one}" if name else value(one) for name, one in solution.items())
        for solution in solutions
    ]
    many = f"a {'set' if kind else 'list'} of {len(each)}: " if len(each) > 1 else ""
    return many + "; ".join(each) + ending


def value(latex: str) -> str:
    if relations(latex)[1]:
        return f"the relation {latex}"
    if elements(latex):
        return f"the tuple {latex}"
    if trees(latex) is None:
        return f"{latex}, which is not understood: it is equal only by its spelling"
    if (exact := number(latex)) is None:
        return f"the expression {latex}"
    return f"{latex}, the number {mpmath.nstr(mpmath.mpmathify(exact), 6)}"


def reason(answer: str, gold: str, verdict: bool) -> str:
    """Why, in plain words."""
    one, other = normalise(answer), normalise(gold)
    if verdict:
        alike = key(one.whole) == key(other.whole)
        return "they are spelled alike" if alike else "they mean the same"
    if conflict(one.unit, other.unit):
        return "their units contradict each other"
    counts = [len(read(side.latex).solutions) for side in (one, other)]
    if counts[0] != counts[1]:
        return f"the answer has {counts[0]} parts and the gold {counts[1]}"
    return "they differ"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m verifier GOLD ANSWER")
    gold, answer = sys.argv[1:]
    if max(len(gold), len(answer)) > 4 * LONGEST:
        sys.exit(f"equal only if spelled alike: above {4 * LONGEST:,} characters nothing is read")
    verdict = equal(answer, gold)
    print(f"gold:   {reading(gold)}\nanswer: {reading(answer)}")
    print(f"{'equal' if verdict else 'not equal'}: {reason(answer, gold, verdict)}")
