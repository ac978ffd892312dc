r"""Say what a gold and an answer are read as, and why they are equal or not.

python -m verifier '\frac12' 'x = 50\%'
"""

import sys

from .compare import choice, equal, number, trees
from .normalise import normalise
from .read import read, relations
from .regions import region
from .units import conflict


def reading(text: str) -> str:
    """What `text` is read as, in plain words."""
    letter, rest = choice(text)
    if letter:
        return f"choice {letter}" + (f", which is {reading(rest)}" if rest else "")
    latex, unit, _ = normalise(text)
    named = " ".join([*(f"{name}^{n}" for name, n in unit.powers.items()), *sorted(unit.words)])
    unit_text = f", with the unit {named}" if named else ""
    if found := region(latex):
        pieces = [("(["[a] + left + ", " + right + ")]"[b]) for left, a, right, b in found.pieces]
        return f"the part {' and '.join(pieces)} of the real line" + unit_text
    kind, solutions = read(latex)
    if len(solutions) == 1 and "" in solutions[0]:
        return value(solutions[0][""]) + unit_text
    each = (", ".join(f"{name or 'a value'} = {one}" for name, one in s.items()) for s in solutions)
    what = "set" if kind else "list"
    return f"a {what} of {len(solutions)}: {'; '.join(each)}" + unit_text


def value(latex: str) -> str:
    if relations(latex)[1]:
        return f"the relation {latex}"
    if trees(latex) is None:
        return f"{latex}, which is not understood: it is equal only by its spelling"
    exact = number(latex)
    return f"the expression {latex}" if exact is None else f"{latex}, the number {exact}"


def reason(answer: str, gold: str, verdict: bool) -> str:
    if verdict:
        return "they mean the same"
    one, other = normalise(answer), normalise(gold)
    if conflict(one.unit, other.unit):
        return "their units contradict each other"
    counts = [len(read(side.latex).solutions) for side in (one, other)]
    if counts[0] != counts[1]:
        return f"the answer has {counts[0]} parts and the gold {counts[1]}"
    return "they are read as different things"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m verifier GOLD ANSWER")
    gold, answer = sys.argv[1:]
    verdict = equal(answer, gold)
    print(f"gold:   {reading(gold)}\nanswer: {reading(answer)}")
    print(f"{'equal' if verdict else 'not equal'}: {reason(answer, gold, verdict)}")
