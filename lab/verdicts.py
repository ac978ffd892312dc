"""From measures to verdicts: paired differences, Stein's intervals, false discoveries.

lab/README.md states the rule in words.
"""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy import stats

from lab.papers import Claim
from tools.evaluation.statistics import student_t

PILOT = 5  # seeds whose variance fixes how many a claim gets
FALSE_DISCOVERIES = 0.05

WORDS = {False: ("as in the paper", "opposite"), True: ("more", "less")}  # {claim extends: ...}
VERDICTS = (*WORDS[False], "no difference", "undecided", *WORDS[True])
NOT_COUNTED, NOT_RUN = "not counted", "not run"


@dataclass(frozen=True)
class Judged:
    """A claim and what the seeds say about it. A positive difference is as it predicts."""

    claim: Claim
    differences: list[float]  # of the seeds that it may look at; none where an arm was not run
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    worth: float = math.nan  # the smallest effect worth talking about
    seeds_needed: int = PILOT
    verdict: str = NOT_RUN

    def __str__(self) -> str:
        return f"{self.mean:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"


def smallest_effect(metric: str, level: float) -> float:
    """The smallest effect worth talking about. level: the mean measure of the arms compared."""
    if metric.startswith(("eval_accuracy", "final_accuracy", "rise@")):
        return 0.03
    if metric.startswith("truncated"):
        return 0.01
    if metric.startswith(("final_repeats", "shift@")):
        return 0.05
    return 0.1 * abs(level)


def seeds_needed(spread, worth: float, pilot: int = PILOT):
    """The fewest seeds whose Stein interval is no wider than the smallest effect.

    spread: the pilot's std of a difference, a number or an array.
    """
    return np.maximum(pilot, np.ceil((2 * student_t(pilot - 1) * spread / worth) ** 2)).astype(int)


def half_width(spread, count, pilot: int = PILOT):
    """Half the width of the 95 % interval of a mean over `count` seeds, by the pilot's spread."""
    return student_t(pilot - 1) * spread / np.sqrt(count)


def measure_claim(claim: Claim, seen: dict[str, dict[int, dict]]) -> Judged:
    """The claim with its differences and no verdict yet. seen: {arm: {seed: measures}}."""
    more, less = claim.sides
    arms = more + less
    if not all(arm in seen for arm in arms):
        return Judged(claim, [])

    def mean(arms: list[str], seed: int) -> float:
        return fmean(seen[name][seed][claim.metric] for name in arms) if arms else 0.0

    seeds = [
        seed
        for seed in sorted(set.intersection(*(set(seen[name]) for name in arms)))
        if all(claim.metric in seen[name][seed] for name in arms)
    ]
    if len(seeds) < 2:
        return Judged(claim, [])
    pilot = seeds[:PILOT]
    level = fmean(abs(mean([name], seed)) for name in arms for seed in pilot)
    worth = smallest_effect(claim.metric, level)
    differences = [mean(more, seed) - mean(less, seed) for seed in seeds]
    spread, agree = stdev(differences[: len(pilot)]), np.ptp(differences) < 1e-9
    # Seeds that agree exactly are judged by a sign test, which takes six.
    needed = 6 if agree or not worth else int(seeds_needed(spread, worth, len(pilot)))
    differences = differences[:needed]
    middle, count = fmean(differences), len(differences)
    if agree:
        half, p = 0.0, 2.0 ** (1 - count) if abs(middle) > 1e-9 else 1.0
    else:
        half = float(half_width(spread, count, len(pilot)))
        statistic = abs(middle) * math.sqrt(count) / max(spread, 1e-12)
        p = 2 * float(stats.t.sf(statistic, len(pilot) - 1))
    return Judged(claim, differences, middle, middle - half, middle + half, p, worth, needed)


def more_seeds(claims: list[Judged], seeds: dict[str, int], most: int) -> dict[str, int]:
    """{arm: seeds}: at least those it has, up to `most` if a claim about it needs more."""
    needed = dict(seeds)
    for judged in claims:
        more, less = judged.claim.sides
        for arm in more + less:
            needed[arm] = max(needed[arm], min(most, judged.seeds_needed))
    return needed


def verdict(judged: Judged, q: float) -> str:
    """The rule's verdict; q: the p value after Benjamini and Yekutieli's correction."""
    if -judged.worth < judged.low and judged.high < judged.worth:
        return "no difference"
    if q <= FALSE_DISCOVERIES and abs(judged.mean) >= judged.worth:
        return WORDS[judged.claim.extends][0 if judged.mean > 0 else 1]
    return "undecided"


def judge(claims: list[Judged]) -> list[str]:
    """The verdicts of all claims of all experiments, which must be judged together."""
    counted = [one for one in claims if one.differences and not one.claim.apart]
    corrected = stats.false_discovery_control([one.p for one in counted], method="by")
    verdicts = {id(one): verdict(one, q) for one, q in zip(counted, corrected, strict=True)}
    return [verdicts.get(id(one), NOT_COUNTED if one.differences else NOT_RUN) for one in claims]
