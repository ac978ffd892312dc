"""From measures to verdicts: paired differences, t intervals, false discoveries, power."""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

from lab.papers import Claim

RULE = """\
A run's measure is the mean of a metric over the last quarter of its steps, or what
evaluate.py finds in its last checkpoint (`final_`, `rise@`). For each seed, the mean measure of the
arms that the paper puts higher minus that of the arms it puts lower is a paired difference. Over
the seeds it has a mean and a 95 % t interval.

The smallest effect worth talking about is the same for all experiments: three points of accuracy,
one point of truncated or endless answers, and 10 % of the arms' mean for any other metric. It was
chosen after the runs of 2026-11-22 had been seen and before all later ones. The verdict is

- **no difference** if the whole interval lies within plus or minus that size;
- else **as in the paper** or **opposite**, by the sign, if the difference is significant;
- else **undecided**.

Significant means that the claim survives Benjamini and Hochberg's procedure over all claims of all
experiments: of the claims called significant, at most 5 % are expected to be false.

Seeds needed is the number that makes the interval, by the variance seen, no wider than the smallest
effect worth talking about, or than the effect seen where that is larger. With `--most N` an
experiment goes on after its first seeds until each arm has as many as its claims need, or N. When
it stops does not depend on a verdict: a claim that is decided early gets its seeds as well."""

VERDICTS = ("as in the paper", "opposite", "no difference", "undecided")
FALSE_DISCOVERIES = 0.05


@dataclass(frozen=True)
class Judged:
    """A claim and what the seeds say about it. A positive difference is as the paper predicts."""

    claim: Claim
    differences: list[float]
    mean: float
    low: float
    high: float
    p: float
    worth: float  # the smallest effect worth talking about
    seeds_needed: int
    verdict: str = "undecided"

    def __str__(self) -> str:
        return f"{self.mean:+.3g}, 95 % interval {self.low:+.3g} to {self.high:+.3g}"


def smallest_effect(metric: str, level: float) -> float:
    """The smallest effect worth talking about. level: the mean measure of the arms compared."""
    if metric.startswith(("eval_accuracy", "final_accuracy", "rise@")):
        return 0.03
    if metric.startswith(("truncated", "final_endless")):
        return 0.01
    return 0.1 * abs(level)


def t_test(differences: list[float]) -> tuple[float, float, float]:
    """(low, high, p): the 95 % t interval of the mean, and the two-sided test of its being zero.

    Seeds that agree exactly are no case for a t test: then p is that of a sign test.
    """
    mean = fmean(differences)
    if max(differences) - min(differences) < 1e-9:
        return mean, mean, 2.0 ** (1 - len(differences)) if abs(mean) > 1e-9 else 1.0
    result = stats.ttest_1samp(differences, 0.0)
    interval = result.confidence_interval(0.95)
    return float(interval.low), float(interval.high), float(result.pvalue)


def seeds_needed(spread: float, width: float) -> int:
    """The fewest seeds whose 95 % interval is at most `width` wide; spread: std of a difference."""
    if spread < 1e-12:
        return 6  # the fewest that a sign test can call significant
    count = 2
    while stats.t.ppf(0.975, count - 1) * spread / math.sqrt(count) > width / 2:
        count += 1
        if count > 1000:
            break
    return count


def measure_claim(claim: Claim, seen: dict[str, dict[int, dict]]) -> Judged:
    """The claim with its differences and no verdict yet. seen: {arm: {seed: measures}}."""

    def mean(arms: tuple[str, ...], seed: int) -> float:
        return fmean(seen[name][seed][claim.metric] for name in arms) if arms else 0.0

    seeds = sorted(set.intersection(*(set(seen[name]) for name in claim.more + claim.less)))
    differences = [mean(claim.more, seed) - mean(claim.less, seed) for seed in seeds]
    level = fmean(abs(mean((name,), seed)) for name in claim.more + claim.less for seed in seeds)
    low, high, p = t_test(differences)
    worth = smallest_effect(claim.metric, level)
    middle = fmean(differences)
    needed = seeds_needed(stdev(differences), max(worth, abs(middle))) if worth else 2
    return Judged(claim, differences, middle, low, high, p, worth, needed)


def more_seeds(claims: list[Judged], seeds: dict[str, int], most: int) -> dict[str, int]:
    """{arm: seeds}: at least those it has, up to `most` if a claim about it needs more."""
    needed = dict(seeds)
    for judged in claims:
        for arm in judged.claim.more + judged.claim.less:
            needed[arm] = max(needed[arm], min(most, judged.seeds_needed))
    return needed


def verdict(judged: Judged, q: float) -> str:
    """RULE's verdict; q: the p value after Benjamini and Hochberg's correction."""
    if -judged.worth < judged.low and judged.high < judged.worth:
        return "no difference"
    if q <= FALSE_DISCOVERIES:
        return "as in the paper" if judged.mean > 0 else "opposite"
    return "undecided"


def judge(claims: list[Judged]) -> list[str]:
    """The verdicts of all claims of all experiments, which must be judged together."""
    corrected = stats.false_discovery_control([claim.p for claim in claims])
    return [verdict(claim, q) for claim, q in zip(claims, corrected, strict=True)]
