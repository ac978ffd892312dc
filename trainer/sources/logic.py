"""Logic puzzles of the Reasoning Gym library, in any number: ProRL's fourth domain.

    problems = load("train:37000", seed=42)  # load_problems("logic:train:37000")
    logic_score("<think>...</think> <answer>42</answer>", problems[0].verify)  # from 0 to 1

Each task has its own verifier, which also gives partial credit.

Sources: logic:NAME or logic:NAME:SIZE, where NAME is
    train         every task but the held-out, excluded and slow ones; graph_color at 10 vertices
    validation    the same tasks, other puzzles; small tasks repeat a few, which data.without drops
    held_out      the tasks that ProRL (arXiv 2505.24864) never trains on
    graph_color   graph_color/10 ... graph_color/30; the larger graphs are never trained on
    TASK          one task, such as chain_sum, zebra_puzzles or graph_color/20
"""

import copy
import io
import json
import os
import random
import re
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

from trainer.data import Problem
from trainer.errors import Refused

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.1.25"  # another version makes other puzzles of the same seed
HELD_OUT = ("boxnet", "acre", "game_of_life_halting")
GRAPH_SIZES = (10, 15, 20, 25, 30)  # vertices; the library needs seconds for a graph of 50
# Each of these puzzles takes 80 to 400 ms to make, so `train` leaves them out.
SLOW = ("futoshiki", "knight_swap", "sokoban", "zebra_puzzles")
RUNS_ANSWERS = "its verifier evaluates the answer as code and simplifies it without a time limit"
EXCLUDED = {
    "codeio": "it runs unreviewed programs to make its puzzles, and no seed makes it repeat them",
    "composite": "it is a mixture of other tasks",
    "intermediate_integration": RUNS_ANSWERS,
    "puzzle24": "its verifier takes any four numbers that make 24, not only the given ones",
    "simple_integration": RUNS_ANSWERS,
}

# What an answer must not contain: the task's verifier would run it, hang, or be fooled.
# These verifiers call eval(). Lists of capitals and digits can neither call a function nor loop.
BEYOND_LISTS = r"[^\dA-Z_,\[\]'\"\s]"
REFUSED = {
    "binary_matrix": BEYOND_LISTS,
    "n_queens": BEYOND_LISTS,
    "spiral_matrix": BEYOND_LISTS,
    "string_insertion": BEYOND_LISTS,
    # Sympy calls eval() too. It may see plain arithmetic without powers, ...
    "countdown": r"[^0-9\s+*/()-]|\*\*",
    # ... or single lower-case letters; only these have powers, of at most two digits.
    "polynomial_multiplication": (
        r"[^a-z0-9+*() -]|[a-z0-9][a-z]|[^a-z ] *\*\*|\*\* *([^0-9 ]|[0-9]{3})"
    ),
    # Fraction("1e999999999") fills the memory.
    "coin_flip": r"[eE][+-]?\w{3}",
    # R999999999 is that many moves.
    "rubiks_cube": r"\d\d",
    "rush_hour": r"\d\d",
    # NaN passes as the right answer.
    "complex_arithmetic": r"(?i)nan",
    "number_sorting": r"(?i)nan",
    # It is parsed in quadratic time.
    "propositional_logic": r"(?s).{500}",
}
MAX_ANSWER = 4_000  # characters, beyond twice the gold's

INSTRUCTION = "\n\nGive your final answer, and nothing else, between <answer> and </answer>."
# Problem.answer where the library names no gold.
OPEN = "(open-ended: whatever the verifier accepts)"


def load(source: str, seed: int) -> list[Problem]:
    """Problems of "NAME" or "NAME:SIZE" (see the top of this file), alternating between tasks.

    task: its name in the library. answer: its gold, or OPEN. verify: {"task", "entry"}, as JSON.

    A seed always gives the same puzzles, so a resumed run sees the same ones. Some tasks draw from
    sets of strings, others from the global generators of random and numpy, so the puzzles are made
    in a separate process with a fixed hash seed.

    Raises Refused if reasoning-gym is missing, if the name is unknown or excluded, and if SIZE is
    not a positive number.
    """
    name, colon, size = source.partition(":")
    if not colon:
        size = "10000" if name == "train" else "1000"
    if not (size.isdecimal() and int(size) > 0):
        raise Refused(f"logic:{source}: SIZE must be a positive number, as in logic:train:2000")
    _names(name)
    command = [sys.executable, "-m", "trainer.sources.logic", name, size, str(seed)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    made = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return [Problem(**json.loads(line)) for line in made.stdout.splitlines()]


def tagged_answer(response: str) -> str | None:
    """The text between the last <answer> and </answer>; None without these tags."""
    head, end_tag, _ = response.rpartition("</answer>")
    _, tag, answer = head.rpartition("<answer>")
    if not (tag and end_tag):
        return None
    return answer.partition("</answer>")[0].strip()


def logic_score(response: str, verify: dict) -> float:
    """The library's score, from 0 to 1, of the text between the last <answer> and </answer>.

    0.0 without the tags, for a refused answer (REFUSED, MAX_ANSWER), and if the verifier fails.
    Raises Refused if reasoning-gym is missing.
    """
    task = verify["task"].partition("/")[0]
    answer = tagged_answer(response)
    if answer is None:
        return 0.0
    entry = copy.deepcopy(verify["entry"])  # a copy: knight_swap writes into its entry
    if len(answer) > MAX_ANSWER + 2 * len(entry["answer"] or ""):
        return 0.0
    if task in REFUSED and re.search(REFUSED[task], answer):
        return 0.0
    if task == "game_of_life_halting":
        # The library compares bool("True") with bool("False"), so that anything would pass.
        return float(answer.lower() == entry["answer"].lower())
    if task in ("arc_agi", "rearc"):  # compared with tuples, which JSON does not have
        entry["metadata"]["output"] = tuple(map(tuple, entry["metadata"]["output"]))
    scorer = _dataset(task, 0, 1)
    # Some verifiers print bad answers, or warn about them.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            score = float(scorer.score_answer(answer, entry))
        except Exception:
            # On odd answers the hundred verifiers raise what int(), json or numpy raise.
            return 0.0
    return score if 0 <= score <= 1 else 0.0


def _library():  # imported late: it is optional, and takes a second
    try:
        import reasoning_gym
    except ImportError:
        raise Refused(
            f"logic puzzles need Reasoning Gym: pip install reasoning-gym=={VERSION}"
        ) from None
    return reasoning_gym


def _names(split):
    """The tasks of a split, or the one task with that name."""
    tasks = _library().factory.DATASETS
    if split in ("train", "validation"):
        return sorted(set(tasks).difference(HELD_OUT, SLOW, EXCLUDED))
    if split == "held_out":
        return list(HELD_OUT)
    sizes = [f"graph_color/{n}" for n in GRAPH_SIZES]
    if split == "graph_color":
        return sizes
    if split in EXCLUDED:
        raise Refused(f"logic:{split}: this task is excluded, {EXCLUDED[split]}; choose another")
    if split not in tasks and split not in sizes:
        raise Refused(
            f"logic:{split}: no such split or task; choose train, validation, held_out, "
            f"graph_color or one task of reasoning-gym {VERSION}, such as chain_sum"
        )
    return [split]


@cache
def _dataset(task, seed, size):
    name, slash, vertices = task.partition("/")
    options = {}
    if slash:
        options = {"min_num_vertices": int(vertices), "max_num_vertices": int(vertices)}
    return _library().create_dataset(name, seed=seed, size=size, **options)


def _write(split, size, seed):
    """The separate process of load. It writes one JSON object per line."""
    random.seed(f"{split}:{seed}")  # list_functions draws from the global generator
    tasks, out = _names(split), sys.stdout
    seeds = [random.Random(f"{split}:{task}:{seed}").getrandbits(31) for task in tasks]
    with redirect_stdout(io.StringIO()):  # the makers of some puzzles print
        for i in range(size):
            turn, k = divmod(i, len(tasks))
            entry = _dataset(tasks[k], seeds[k], size)[turn]
            text = entry["question"].strip() + INSTRUCTION
            answer = OPEN if entry["answer"] is None else entry["answer"]
            verify = {"task": tasks[k], "entry": entry}
            row = {"text": text, "answer": answer, "task": tasks[k], "verify": verify}
            print(json.dumps(row, default=str), file=out)  # str: fractions, which no verifier reads


if __name__ == "__main__":
    _write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
