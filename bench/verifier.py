r"""The verifier against math-verify on tests/answer_pairs.jsonl, and one hard pair on a busy
machine.

    python -m bench.verifier

The table is the one that the verifier was developed against, so its own count says little.
math-verify runs at its defaults, on both sides in a box; it is optional here: pip install
'math-verify[antlr4_13_2]==0.9.0'.
"""

import collections
import json
import logging
import multiprocessing
import os
import time
from pathlib import Path

from verifier import equal
from verifier.compare import _equal
from verifier.parse import parse

TABLE = Path(__file__).parents[1] / "tests" / "answer_pairs.jsonl"
HARD = (r"(x+1)^{99}(x-1)^{99}", r"(x^2-1)^{99}")


def math_verify(answer: str, gold: str) -> bool:
    from math_verify import parse, verify

    try:
        return bool(verify(*(parse(rf"$\boxed{{{text}}}$") for text in (gold, answer))))
    # sympy raises anything on odd input.
    except Exception:
        return False


def count(name: str, judge, pairs: list[dict]) -> None:
    start = time.process_time()
    errors = collections.Counter(
        "false negatives" if pair["equal"] else "false positives"
        for pair in pairs
        if judge(pair["answer"], pair["gold"]) != pair["equal"]
    )
    seconds = time.process_time() - start
    print(
        f"{name}: {len(pairs)} pairs, {errors['false negatives']} false negatives, "
        f"{errors['false positives']} false positives, {1000 * seconds / len(pairs):.1f} ms a pair"
    )


def spin(stop) -> None:
    while not stop.is_set():
        pass


def busy_machine(verdicts: int = 1000) -> None:
    """One hard pair, each time without caches, under four busy processes a core."""
    stop, cores = multiprocessing.Event(), len(os.sched_getaffinity(0))
    spinners = [multiprocessing.Process(target=spin, args=(stop,)) for _ in range(4 * cores)]
    for spinner in spinners:
        spinner.start()
    try:
        found = collections.Counter()
        for _ in range(verdicts):
            _equal.cache_clear()
            parse.cache_clear()
            found[equal(*HARD)] += 1
    finally:
        stop.set()
        for spinner in spinners:
            spinner.join()
    print(f"{HARD[0]} = {HARD[1]} with {4 * cores} busy processes on {cores} cores: {dict(found)}")


def main() -> None:
    pairs = [json.loads(line) for line in TABLE.read_text().splitlines()]
    count("verifier", equal, pairs)
    logging.disable()
    try:
        count("math-verify", math_verify, pairs)
    except ImportError:
        print("math-verify is not installed")
    busy_machine()


if __name__ == "__main__":
    main()
