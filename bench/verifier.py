r"""The verifier against math-verify: on pairs made from public golds by a seed, on the table of the
tests, and on one hard pair on a busy machine.

    python -m bench.verifier --seed 7 --pairs 2000

A gold of the files in ../shared/data is restyled, which keeps it equal, or changed, which does not.
Use a seed that nobody has looked at: the table is the one that the verifier was developed against,
so its count says little. math-verify runs at its defaults, on both sides in a box; it is optional:
pip install 'math-verify[antlr4_13_2]==0.9.0'.
"""

import argparse
import collections
import json
import logging
import multiprocessing
import os
import random
import re
import time
from fractions import Fraction
from pathlib import Path

from verifier import equal
from verifier.compare import _equal
from verifier.normalise import normalise
from verifier.parse import parse

ROOT = Path(__file__).parents[1]
TABLE, DATA = ROOT / "tests" / "answer_pairs.jsonl", ROOT.parent / "shared" / "data"
HARD = (r"(x+1)^{99}(x-1)^{99}", r"(x^2-1)^{99}")

# ---------------------------------------------------------------- pairs by seed

INTEGER = re.compile(r"-?\d{1,9}")
DECIMAL = re.compile(r"-?\d+\.\d{1,6}")
FRACTION = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}")
TUPLE = re.compile(r"(\(|\\left\()([^()\[\]]+,[^()\[\]]+?)(\)|\\right\))")
LIST = re.compile(r"[^()\[\]{},\\]+(?:, ?[^()\[\]{},\\]+)+")
EXPRESSION = re.compile(r"(?=.*[\d\\])(?:[-+\da-z^() /]|\\frac|\\sqrt|\\pi|[{}])+")


def restyled(gold: str, rng: random.Random) -> list[tuple[str, str]]:
    """(kind, answer) pairs that are equal to the gold."""
    found = [("formula", f"${gold}$"), ("dot", gold + "."), ("name", f"x = {gold}")]
    if "=" in gold or "," in gold or re.search("[A-Z]|text", gold):
        found = found[:2]
    if INTEGER.fullmatch(gold):
        n, by = int(gold), rng.randint(2, 9)
        found += [("decimal", f"{n}.0"), ("quotient", rf"\frac{{{n * by}}}{{{by}}}")]
        found += [("sum", f"{n - by}+{by}"), ("thousands", f"{n:,}"), ("power", rf"{n}\cdot 2^0")]
        found += [("box of text", rf"\text{{{n}}}"), ("unit", rf"{n}\text{{ units}}")]
    if DECIMAL.fullmatch(gold):
        exact = Fraction(gold)
        found += [("fraction", f"{exact.numerator}/{exact.denominator}"), ("zeros", gold + "0")]
    if parts := FRACTION.fullmatch(gold):
        sign, top, bottom = parts.groups()
        found += [("slash", f"{sign}{top}/{bottom}"), ("dfrac", gold.replace(r"\frac", r"\dfrac"))]
        found += [("expanded", rf"{sign}\frac{{{3 * int(top)}}}{{{3 * int(bottom)}}}")]
    if parts := TUPLE.fullmatch(gold):
        found += [("spaces", f"( {parts[2].replace(',', ' , ')} )")]
        found += [("big brackets", rf"\bigl({parts[2]}\bigr)")]
    if LIST.fullmatch(gold) and not re.fullmatch(r"\d{1,3}(,\d{3})+", gold):
        items = gold.split(",")
        found += [("order", ", ".join(rng.sample(items, len(items)))), ("and", " and ".join(items))]
        found += [("set", r"\{" + gold + r"\}"), ("bare braces", "{" + gold + "}")]
    if EXPRESSION.fullmatch(gold) and not INTEGER.fullmatch(gold):
        found += [("brackets", rf"\left({gold}\right)"), ("times one", f"1({gold})")]
        found += [
            ("half twice", rf"\frac{{2({gold})}}{{2}}"),
            ("doubled", gold.replace("\\", r"\\")),
        ]
    return found


def changed(gold: str, rng: random.Random) -> list[tuple[str, str]]:
    """(kind, answer) pairs that are not equal to the gold."""
    found = []
    digits = [place for place, char in enumerate(gold) if char.isdigit()]
    if digits and not re.search("[A-Z]|text|0", gold):
        place = rng.choice(digits)
        digit = rng.choice([digit for digit in "123456789" if digit != gold[place]])
        found.append(("digit", gold[:place] + digit + gold[place + 1 :]))
    if INTEGER.fullmatch(gold) and int(gold):
        n = int(gold)
        found += [("sign", str(-n)), ("percent of it", f"{n / 1000}\\%"), ("list", f"{n}, {n + 1}")]
        found += [
            ("near", f"{n}.001"),
            ("relation", f"x > {n}"),
            ("condition", f"{n} \\text{{ if }} x>0"),
        ]
        found += [("of names", rf"{n}x"), ("split", f"{gold[:-1]}, {gold[-1]}")]
    if DECIMAL.fullmatch(gold) and Fraction(gold):
        found += [("sign", gold[1:] if gold[0] == "-" else "-" + gold), ("shift", gold + "e1")]
    if (parts := FRACTION.fullmatch(gold)) and int(parts[2]) ** 2 != int(parts[3]) ** 2:
        found += [("upside down", rf"{parts[1]}\frac{{{parts[3]}}}{{{parts[2]}}}")]
        rounded = f"{parts[1]}{int(parts[2]) / int(parts[3]):.2f}"
        if abs(Fraction(rounded)) != Fraction(int(parts[2]), int(parts[3])):
            found.append(("rounded", rounded))
    if parts := TUPLE.fullmatch(gold):
        items = [item.strip() for item in parts[2].split(",")]
        if len(set(items)) == len(items):
            found.append(("order", f"({', '.join(items[1:] + items[:1])})"))
        found += [("one less", f"({', '.join(items[1:])})"), ("set", rf"\{{{', '.join(items)}\}}")]
    if LIST.fullmatch(gold) and not re.fullmatch(r"\d{1,3}(,\d{3})+", gold):
        found += [("one less", gold.rpartition(",")[0]), ("one more", gold + ", 7919")]
    if EXPRESSION.fullmatch(gold):
        found += [
            ("plus one", f"{gold}+1"),
            ("times", rf"3\left({gold}\right)"),
            ("power", f"({gold})^7"),
        ]
        if re.fullmatch(r"-?0*[01]", gold):
            found = found[:-2]
    return found


def make_pairs(seed: int, count: int) -> list[dict]:
    """`count` pairs of public golds, half of them equal; each kind as often as any other."""
    golds = set()
    for path in sorted(DATA.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.open()]
        golds |= {row["answer"].rpartition("####")[2].strip() for row in rows if "answer" in row}
    rng = random.Random(seed)
    kinds = collections.defaultdict(list)
    for gold in rng.sample(sorted(golds), len(golds)):
        for same, make in ((True, restyled), (False, changed)):
            for kind, answer in make(gold, rng):
                kinds[same, kind].append(
                    {"answer": answer, "gold": gold, "equal": same, "kind": kind}
                )
    pairs = []
    for same in (True, False):
        lists = [found for (equal_, _), found in sorted(kinds.items()) if equal_ == same]
        pairs += [rng.choice(rng.choice(lists)) for _ in range(count // 2)]
    return pairs


# ---------------------------------------------------------------- both verifiers


def math_verify(answer: str, gold: str) -> bool:
    from math_verify import parse, verify

    try:
        return bool(verify(*(parse(rf"$\boxed{{{text}}}$") for text in (gold, answer))))
    # sympy raises anything on odd input.
    except Exception:
        return False


def count(name: str, judge, pairs: list[dict]) -> None:
    """Print how often a verifier is wrong, on which kinds, and how long it takes."""
    wrong, slowest, start = collections.Counter(), 0.0, time.process_time()
    for pair in pairs:
        before = time.process_time()
        if judge(pair["answer"], pair["gold"]) != pair["equal"]:
            wrong[pair["equal"], pair.get("kind", "")] += 1
        slowest = max(slowest, time.process_time() - before)
    seconds, rights = time.process_time() - start, sum(pair["equal"] for pair in pairs)
    totals = [sum(n for (same, _), n in wrong.items() if same == kind) for kind in (True, False)]
    print(
        f"{name}: {totals[0]} of {rights} right answers rejected, {totals[1]} of "
        f"{len(pairs) - rights} wrong ones accepted; {1000 * seconds / len(pairs):.1f} ms a pair, "
        f"at most {1000 * slowest:.0f} ms"
    )
    for (same, kind), n in wrong.most_common() if any(kind for _, kind in wrong) else ():
        print(f"    {'rejected' if same else 'accepted'}: {kind} {n}")


def spin(stop) -> None:
    while not stop.is_set():
        pass


def busy_machine(verdicts: int = 1000) -> None:
    """One hard pair, its trees parsed anew each time, under four busy processes a core."""
    stop, cores = multiprocessing.Event(), len(os.sched_getaffinity(0))
    spinners = [multiprocessing.Process(target=spin, args=(stop,)) for _ in range(4 * cores)]
    for spinner in spinners:
        spinner.start()
    try:
        found = collections.Counter()
        for _ in range(verdicts):
            for cached in (_equal, normalise, parse):
                cached.cache_clear()
            found[equal(*HARD)] += 1
    finally:
        stop.set()
        for spinner in spinners:
            spinner.join()
    print(f"{HARD[0]} = {HARD[1]} with {4 * cores} busy processes on {cores} cores: {dict(found)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the pairs that are made")
    parser.add_argument("--pairs", type=int, default=2000, help="how many are made")
    parser.add_argument("--busy", type=int, default=1000, help="verdicts on a busy machine")
    args = parser.parse_args()
    table = [json.loads(line) for line in TABLE.read_text().splitlines()]
    logging.disable()
    for name, pairs in ((f"seed {args.seed}", make_pairs(args.seed, args.pairs)), ("table", table)):
        count(f"verifier, {name}", equal, pairs)
        try:
            count(f"math-verify, {name}", math_verify, pairs)
        except ImportError:
            print("math-verify is not installed")
    busy_machine(args.busy)


if __name__ == "__main__":
    main()
