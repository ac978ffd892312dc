"""The statistics of evaluations: pass@k, majority votes, intervals over problems, regimes.

Without torch, because the laboratory imports this.
"""

import math
from collections import Counter
from statistics import fmean, stdev, variance


def student_t(df: int) -> float:
    """The 97.5 % quantile of Student's t with df degrees of freedom."""
    from scipy import stats  # here: --help need not wait for it

    return float(stats.t.ppf(0.975, df))


# --- one problem ---


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n answers, drawn without replacement, hold one of the c correct ones.

        1 - C(n - c, k) / C(n, k)

    This is the unbiased estimator of pass@k (arXiv 2107.03374), computed as a product so that no
    factorial overflows. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}.")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / j for j in range(n - c + 1, n + 1))


def powers(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself."""
    return sorted({2**i for i in range(n.bit_length())} | {n})


def majority(answers: list[str | None], correct: list[bool], same=str.__eq__) -> float:
    """maj@n: 1 if the most frequent answer is correct, else 0.

    On a tie it is the share of the tied answers that are correct, as a random choice among them
    would be on average. All correct answers count as one. So do wrong ones that differ only in
    spaces and dollar signs, or for which same(one, other) holds. A response without an answer
    (None) has no vote.
    """
    votes: Counter[tuple[str, bool]] = Counter()
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            votes["" if right else "".join(answer.split()).replace("$", ""), right] += 1
    groups: dict[tuple[str, bool], int] = {}
    for (text, right), count in votes.items():
        first = (one for one in groups if not right and not one[1] and same(text, one[0]))
        group = next(first, (text, right))
        groups[group] = groups.get(group, 0) + count
    most = max(groups.values(), default=0)
    return fmean(float(right) for (_, right), n in groups.items() if n == most) if groups else 0.0


def distinct_4gram(ids: list[int]) -> float:
    """The number of different 4-grams of tokens over the number of all 4-grams, in (0, 1].

    It is near 0 when a text repeats itself, and 1 when there are fewer than 4 tokens.
    """
    grams = list(zip(ids, ids[1:], ids[2:], ids[3:], strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0


# --- many problems ---


def interval(values: list[float], draws: int = 1) -> tuple[float, float]:
    """The 95 % interval of a mean over problems.

    values: one for each problem, in [0, 1], each the mean of `draws` independent answers.

    Answers to one problem resemble each other, so what varies is the problem. This is Wilson's
    interval with Student's t, where the sample size is the effective number of independent answers,
    mean * (1 - mean) / (variance of the mean). It stays in [0, 1]. It also keeps its width when all
    problems are solved or none is, where mean +- 2 standard errors would have no width.
    """
    problems, mean = len(values), fmean(values)
    if problems < 2:
        return 0.0, 1.0
    spread = mean * (1 - mean)
    error = variance(values) / problems
    effective = problems * draws
    if spread < 1e-12:  # all solved, or none
        effective = problems
    elif error > 0:
        effective = min(effective, spread / error)
    t2 = student_t(problems - 1) ** 2 / effective
    centre = (mean + t2 / 2) / (1 + t2)
    half = math.sqrt(t2 * spread + t2 * t2 / 4) / (1 + t2)
    # Rounding must not leave the mean outside.
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def margin(differences: list[float]) -> float:
    """Half the width of the 95 % t interval of a mean of paired differences; 1.0 for only one."""
    count = len(differences)
    if count < 2:
        return 1.0
    return student_t(count - 1) * stdev(differences) / math.sqrt(count)


LOW = 0.05  # of pass@K: below it a task is unsolved, and a change is not worth talking about


def regime(
    pass_1: tuple[float, float],
    pass_max: tuple[float, float],
    margins: tuple[float, float],
    reached: float | None = None,
) -> str:
    """One of ProRL's three regimes (section 4.2), or why it is none, by comparison.py's rule.

    pass_1 and pass_max: pass@1 and pass@K before and after. margins: of their rises.
    reached: the share of pass@K's rise that an earlier checkpoint already had; None without one.
    """
    rise_1, rise_max = pass_1[1] - pass_1[0], pass_max[1] - pass_max[0]
    margin_1, margin_max = (one + 1e-9 for one in margins)  # 1e-9 allows for rounding
    if rise_max > margin_max:
        if reached is None:  # without an earlier checkpoint, compare with the rise of pass@1
            return "plateau" if rise_max < rise_1 / 2 else "sustained"
        return "plateau" if reached >= 0.75 else "sustained"
    if max(pass_max) < LOW:
        return "floor"
    if rise_1 < -margin_1:
        return "worse"
    if rise_1 > margin_1 and rise_max + margin_max < LOW:
        return "diminish"
    return "undecided"


def spearman(x: list[float], y: list[float]) -> float | None:
    """Spearman's rank correlation; None for fewer than 3 points, or when one side is constant."""
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    from scipy import stats  # here, as above

    return float(stats.spearmanr(x, y).statistic)
