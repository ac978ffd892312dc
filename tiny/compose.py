r"""Compositions: opaque functions applied one after another to five digits, as in "41752 Az Bu =?".

The problem says: A is z of 41752, B is u of A; what is the last result? It does not say what z and
u do; pretraining has shown that. A good answer writes one result per line and boxes the last one:

    A21752
    B25712
    \boxed{25712}

Most answers of the base model guess instead, and a guess is hopeless among 59,049 strings. A step
uses the wrong function with probability `slip`. So an answer at depth d is right with probability
(share of answers that work) x (1 - slip)^d, and some chains are not solved once in 128 answers.

The strings are digits because verifiers read them as numbers, so 12345 and 21345 differ. With
letters, a verifier that knows algebra would take abc and bca for the same product.

The models `tiny:forks` and `tiny:forks-aligned` answer the same problems, with a fork at every
line. Either they mark the line "~" and use a wrong function in seven of ten cases, or they mark it
"=" and are right:

    A~21752
    B=25712
    \boxed{25712}

The base model marks two lines in a hundred with "=", the aligned model three in ten. So the right
answer needs a rare token to become the usual one, in every line.

Levels: `compose-12` is depth 12, `compose-2-4` alternates between depths 2, 3 and 4, and `compose`
is `compose-1-8`. Pretraining has few chains deeper than 8, and none deeper than 24.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import chain

from tiny.split import split_of

DIGITS, LENGTH = "123456789", 5  # no 0: numbers have no leading 0
SHIFT = str.maketrans(DIGITS, "234567891")
TABLE = str.maketrans(DIGITS, "582913647")
FIRST = str.maketrans(DIGITS, "746291538")

# All are one-to-one, so that no answer is more likely than another.
FUNCTIONS: dict[str, Callable[[str], str]] = {
    "u": lambda s: s[::-1],
    "v": lambda s: s[1:] + s[0],
    "w": lambda s: s[1] + s[0] + s[3] + s[2] + s[4],
    "x": lambda s: s.translate(SHIFT),
    "y": lambda s: s.translate(TABLE),
    "z": lambda s: s[0].translate(FIRST) + s[1:],
}
NAMES = "".join(FUNCTIONS)
LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst"  # of results
USUAL, DEEPEST = 8, 24  # the depth of most problems in pretraining, and the largest depth
TRAIN_SIZE, EVAL_SIZE = 4000, 240


def write(start: str, names: str, first: int = 0) -> str:
    """("41752", "zu") -> "41752 Az Bu =?"; first: where in LABELS the labels begin."""
    steps = [f"{LABELS[(first + i) % len(LABELS)]}{name}" for i, name in enumerate(names)]
    return " ".join([start, *steps, "=?"])


def solve(start: str, names: str) -> str:
    for name in names:
        start = FUNCTIONS[name](start)
    return start


def sample_start(rng: random.Random) -> str:
    return "".join(rng.choices(DIGITS, k=LENGTH))


def depths(level: str) -> range:
    """ "compose-2-4" -> 2, 3, 4. Raises ValueError for an unknown level."""
    match = re.fullmatch(r"compose(?:-(\d+))?(?:-(\d+))?", level)
    if match:
        low = int(match[1] or 1)
        high = int(match[2] or match[1] or USUAL)
        if 1 <= low <= high <= len(LABELS):
            return range(low, high + 1)
    raise ValueError(
        f'no level "{level}" in the tiny world: use compose, compose-D or compose-D-E '
        f"with depths from 1 to {len(LABELS)}"
    )


@cache
def problems(split: str, level: str) -> tuple[dict, ...]:
    """See tiny.world.problems. A level of several depths alternates between them."""
    several = depths(level)
    if len(several) > 1:
        share = (TRAIN_SIZE if split == "train" else EVAL_SIZE) // len(several)
        parts = [problems(split, f"compose-{depth}")[:share] for depth in several]
        return tuple(chain.from_iterable(zip(*parts, strict=True)))
    task, size = f"compose-{several[0]}", TRAIN_SIZE if split == "train" else EVAL_SIZE
    rng, found = random.Random(f"{split}/{task}"), {}
    while len(found) < size:
        start, names = sample_start(rng), "".join(rng.choices(NAMES, k=several[0]))
        if split_of(text := write(start, names)) == split:
            found[text] = {"problem": text, "answer": solve(start, names), "task": task}
    return tuple(found.values())


@dataclass(frozen=True)
class Style:
    """How a corpus answers. All numbers are probabilities."""

    deep: float  # a chain is deeper than USUAL
    work: float  # an answer works step by step; other answers guess
    slip: float  # a step uses the next function in NAMES instead of its own
    exact: float | None = None  # a line is marked "=" and right; others get "~". None: no marks


TEXTBOOK = Style(deep=0.25, work=0.7, slip=0.3)  # teaches the steps
BASE = Style(deep=0.1, work=0.05, slip=0.3)  # hardly ever works step by step
ALIGNED = Style(deep=0.1, work=0.6, slip=0.3)
FORKS_TEXTBOOK = Style(deep=0, work=0.8, slip=0.7, exact=0.5)
FORKS = Style(deep=0, work=0.6, slip=0.7, exact=0.02)
FORKS_ALIGNED = Style(deep=0, work=0.9, slip=0.7, exact=0.3)


def respond(start: str, names: str, first: int, style: Style, rng: random.Random) -> str:
    """One corpus answer. A guess at depth 1 is a step; a deeper guess is five random digits."""

    def step(name: str, digits: str, mark: str = "") -> str:
        if mark != "=" and rng.random() < style.slip:
            name = NAMES[(NAMES.index(name) + 1) % len(NAMES)]
        return FUNCTIONS[name](digits)

    if rng.random() > style.work:
        guess = step(names, start) if len(names) == 1 else sample_start(rng)
        return rf"\boxed{{{guess}}}"
    text, digits = "", start
    for i, name in enumerate(names):
        mark = "" if style.exact is None else "=" if rng.random() < style.exact else "~"
        digits = step(name, digits, mark)
        text += f"{LABELS[(first + i) % len(LABELS)]}{mark}{digits}\n"
    return rf"{text}\boxed{{{digits}}}"


def corpus(style: Style, rng: random.Random, size: int) -> list[tuple[str, str, bool]]:
    """`size` fresh (question, answer, ends) triples over the train split of depths 1 to DEEPEST.

    Labels begin anywhere in LABELS, so that a model learns which label follows which.
    """
    triples = []
    while len(triples) < size:
        depth = (
            rng.randint(USUAL + 1, DEEPEST) if rng.random() < style.deep else rng.randint(1, USUAL)
        )
        start, names = sample_start(rng), "".join(rng.choices(NAMES, k=depth))
        if split_of(write(start, names)) == "train":
            first = rng.randrange(len(LABELS))
            question = write(start, names, first)
            triples.append((question, respond(start, names, first, style, rng), True))
    return triples
