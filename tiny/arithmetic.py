r"""Arithmetic chains: problems such as "3+5-2=?", and noisy answers to them for pretraining.

A good answer shortens the chain by one step per line:

    8-2
    6
    \boxed{6}

The corpus also guesses without steps, makes slips (mostly where a sum crosses ten), writes the
answer in ways that a strict verifier rejects, repeats its work, and sometimes never stops. So a
model trained on it can do far better than it usually does: pass@k is far above pass@1. That leaves
RL something to find.

The levels differ in chain length; `ood` is longer than any chain in pretraining or in RL.
"""

import random
from dataclasses import dataclass
from functools import cache

from tiny.split import split_of

# {level: the smallest and the largest number of operands}.
LEVELS = {"easy": (2, 3), "medium": (4, 4), "hard": (5, 6), "ood": (7, 8)}
MIXED = ("easy", "medium", "hard")
OPERANDS = range(1, 10)
# Range of every intermediate value, so that each step is one of about 300 facts.
VALUES = range(21)
TRAIN_SIZE, EVAL_SIZE, MIXED_EVAL_SIZE = 4000, 240, 300


def apply(value: int, op: str, n: int) -> int:
    return value + n if op == "+" else value - n


def sample_chain(rng: random.Random, level: str) -> list[tuple[str, int]]:
    """A random chain of (operator, operand). The first operator is "+" and is not written."""
    chain = [("+", rng.choice(OPERANDS))]
    value = chain[0][1]
    for _ in range(rng.randint(*LEVELS[level]) - 1):
        steps = [(op, n) for op in "+-" for n in OPERANDS if apply(value, op, n) in VALUES]
        chain.append(rng.choice(steps))
        value = apply(value, *chain[-1])
    return chain


def write(chain: list[tuple[str, int]]) -> str:
    """[("+", 3), ("+", 5), ("-", 2)] -> "3+5-2"."""
    return "".join(f"{op}{n}" for op, n in chain)[1:]


def solve(chain: list[tuple[str, int]]) -> int:
    return sum(n if op == "+" else -n for op, n in chain)


@cache
def problems(split: str, level: str) -> tuple[dict, ...]:
    """See tiny.world.problems. `mixed` alternates between easy, medium and hard."""
    if level not in (*LEVELS, "mixed"):
        names = ", ".join((*LEVELS, "mixed", "compose", "compose-1", "compose-2-4"))
        raise ValueError(f'no "{split}/{level}" in the tiny world: use {names} ...')
    if (split, level) == ("train", "ood"):
        raise ValueError(
            '"ood" is never trained on: use "eval/ood", or train on easy, medium, hard or mixed'
        )
    if level == "mixed":  # interleaved, so that every prefix is a fair mix
        share = (TRAIN_SIZE if split == "train" else MIXED_EVAL_SIZE) // len(MIXED)
        parts = [problems(split, name)[:share] for name in MIXED]
        return tuple(problem for trio in zip(*parts, strict=False) for problem in trio)
    rng, found = random.Random(f"{split}/{level}"), {}
    size = TRAIN_SIZE if split == "train" else EVAL_SIZE
    # Enough tries to find most easy expressions; the longer levels are full before.
    for _ in range(10 * TRAIN_SIZE):
        expression = write(chain := sample_chain(rng, level))
        if split_of(expression) == split:
            problem = {"problem": f"{expression}=?", "answer": str(solve(chain)), "task": level}
            found[expression] = problem
        if len(found) == size:
            break
    return tuple(found.values())


@dataclass(frozen=True)
class Style:
    """How a corpus answers. All numbers are probabilities."""

    guess: float  # answer at once, without steps
    lucky: float  # a guess is right; other guesses are near
    slip: float  # a step that crosses ten goes wrong; any other step EASIER times less often
    recheck: float  # repeat the work after the last step
    endless: float  # enter a loop that never ends
    strict: float  # the answer is a plain \boxed{6}; else one of LOOSE


BASE = Style(guess=0.40, lucky=0.5, slip=0.30, recheck=0.15, endless=0.12, strict=0.32)
ALIGNED = Style(guess=0.35, lucky=0.5, slip=0.30, recheck=0.15, endless=0.10, strict=0.36)

# Answers that a robust verifier accepts and a strict one does not.
LOOSE = (r"\boxed{{ {} }}", r"\boxed{{+{}}}", r"\boxed{{{}.0}}", r"\boxed{{x={}}}", "answer: {}")
EASIER = 6  # a step that does not cross ten is so many times safer
LONGEST = 100  # characters of a corpus answer; a longer one is cut and gets no end token


def respond(chain: list[tuple[str, int]], style: Style, rng: random.Random) -> tuple[str, bool]:
    """One corpus answer: its text, and whether it ends (False: cut at LONGEST)."""
    if rng.random() < style.guess:
        value = solve(chain)
        if rng.random() > style.lucky:
            value = max(0, value + rng.choice((-3, -2, -1, 1, 2, 3)))
        return box(value, style, rng), True
    separator = rng.choice(("\n", "="))
    again = f"wait{separator}{write(chain)}{separator}"
    text, value = work(chain, style, separator, rng)
    if rng.random() < style.endless:
        loop = separator.join(text.split(separator)[-2:]) if rng.random() < 0.5 else again + text
        return (text + LONGEST * loop)[:LONGEST], False
    while rng.random() < style.recheck:
        steps, value = work(chain, style, separator, rng)
        text += again + steps
    text += box(value, style, rng)
    return text[:LONGEST], len(text) <= LONGEST


def work(
    chain: list[tuple[str, int]], style: Style, separator: str, rng: random.Random
) -> tuple[str, int]:
    """The steps of a chain, each followed by the separator, and their result."""
    text = ""
    while len(chain) > 1:
        (_, value), (op, n), *rest = chain
        result = apply(value, op, n)
        crosses_ten = value // 10 != result // 10
        if rng.random() < (style.slip if crosses_ten else style.slip / EASIER):
            # Off by one, or the other sign.
            near = (result - 1, result + 1, apply(value, "-" if op == "+" else "+", n))
            result = min(max(rng.choice(near), VALUES[0]), VALUES[-1])
        chain = [("+", result), *rest]
        text += write(chain) + separator
    return text, solve(chain)


def box(value: int, style: Style, rng: random.Random) -> str:
    return (r"\boxed{{{}}}" if rng.random() < style.strict else rng.choice(LOOSE)).format(value)


def corpus(style: Style, rng: random.Random, size: int) -> list[tuple[str, str, bool]]:
    """`size` fresh (question, answer, ends) triples over the train split of the three levels.

    Some questions end in blanks, so that the distance between question and answer varies. Then a
    model learns to attend to what it copies and not to a fixed position, which helps with `ood`.
    """
    triples = []
    while len(triples) < size:
        chain = sample_chain(rng, rng.choice(MIXED))
        if split_of(write(chain)) == "train":
            question = f"{write(chain)}=?" + " " * rng.choice((0, 0, 0, 0, 1, 2, 3, 4, 5, 6))
            triples.append((question, *respond(chain, style, rng)))
    return triples
