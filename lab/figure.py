"""The figure of an experiment: curves above, and below them all claims in one forest plot."""

import math
import textwrap
from collections import Counter
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt

from lab.papers import Experiment, split
from lab.verdicts import Judged
from tools import plot
from tools.panels import panel_of

WIDTH = 9.0  # inches: readable when a README shows it 800 pixels wide
COLUMNS = 4  # of pass@k panels
FURTHEST = 6  # in units of the smallest effect worth talking about; what lies beyond gets an arrow
FONTS = plot.STYLE | {"font.size": 8, "axes.titlesize": 9}
MARKS = {  # {verdict: (colour, marker)}
    "as in the paper": ("#0072B2", "o"),
    "opposite": ("#D55E00", "s"),
    "no difference": ("#555555", "D"),
    "undecided": ("#BBBBBB", "o"),
    "more": ("#56B4E9", "^"),
    "less": ("#E69F00", "v"),
    "not counted": ("#DDDDDD", "o"),
}


def draw(experiment: Experiment, result: dict, judged: list[Judged], out: Path) -> None:
    """Write the figure to the PNG `out`: curves or pass@k if the runs have them, and the claims."""
    note, runs = f"{seed_counts(result)} paired seeds", result["runs"]
    metrics = [m for m in experiment.panels if all(m in run["curves"] for run in runs)]
    facets = list(dict.fromkeys(split(arm)[0] for arm in experiment.arms))
    if experiment.tasks:  # a panel a task, and one of all
        count, columns = len(experiment.tasks) + 1, COLUMNS
    else:  # a column a facet
        count, columns = len(metrics) * len(facets), max(2, len(facets))
    if not count:
        draw_alone(judged, out, title=note)
        return
    rows = math.ceil(count / columns)
    above, below = 2.3 * rows, 0.7 + 0.33 * sum(bool(one.differences) for one in judged)  # inches
    with plt.rc_context(FONTS):
        figure = plt.figure(figsize=(WIDTH, above + below), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=[above, below])
        cells = list(upper.subplots(rows, columns, squeeze=False).flat)
        if experiment.tasks:
            names = draw_ladders(cells, experiment, result)
        else:
            names = draw_curves(cells, experiment, result, metrics, facets)
        for ax in cells[count:]:
            ax.remove()
        lines = [
            plt.Line2D([], [], label=name, **plot.line_style(i)) for i, name in enumerate(names)
        ]
        note += ", in bands from the lowest to the highest"
        wide = 5 if len(lines) <= 5 else 3
        upper.legend(handles=lines, loc="outside lower center", ncols=wide, title=note)
        draw_claims(lower.subplots(), judged)
        figure.savefig(out, dpi=130)
        plt.close(figure)


def draw_alone(judged: list[Judged], out: Path, title: str = "", *, deck: bool = False) -> None:
    """Write a figure of claims alone to the PNG `out`; deck: in the words of the deck."""
    height = 0.7 + 0.27 * sum(bool(one.differences) for one in judged)
    with plt.rc_context(FONTS):
        figure, ax = plt.subplots(figsize=(WIDTH, height), layout="constrained")
        draw_claims(ax, judged, deck=deck)
        figure.suptitle(title, fontsize=8)
        figure.savefig(out, dpi=130)
        plt.close(figure)


def draw_curves(
    cells: list, experiment: Experiment, result: dict, metrics: list[str], facets: list[str]
) -> list[str]:
    """Metrics over steps, each in all facets. Returns the labels of the arms.

    A label has the same style in all facets.
    """
    labels = list(dict.fromkeys(split(arm)[1] for arm in experiment.arms))
    block = max(1, result["steps"] // 30)
    for (metric, facet), ax in zip(product(metrics, facets), cells, strict=False):
        panel = panel_of(metric)
        if facet:
            panel = panel._replace(title=f"{facet}:\n{panel.title.lower()}")
        groups = {label: [] for label in labels}
        for run in result["runs"]:
            own, label = split(run["arm"])
            if own == facet:
                groups[label].append(as_rows(run["curves"], metric))
        plot.draw_metric(ax, panel, groups, last=result["steps"], block=block)
    return labels


def seed_counts(result: dict) -> str:
    """How many seeds the arms have: "5", or "5 to 25" where they differ."""
    counts = Counter(run["arm"] for run in result["runs"]).values()
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def as_rows(curves: dict, metric: str) -> list[dict]:
    """A curve as the rows of metrics.jsonl that it came from."""
    resets = set(curves["resets"])
    return [
        {"step": step, metric: value} | ({"event": "reset"} if step in resets else {})
        for step, value in curves[metric]
    ]


def draw_ladders(cells: list, experiment: Experiment, result: dict) -> list[str]:
    """pass@k of each task before, midway and after, and pass@1 of all problems.

    Returns the names of these points.
    """
    points = list(experiment.points)
    for ax, task in zip(cells, experiment.tasks, strict=False):
        for index, point in enumerate(points):
            seeds = [run["pass_at_k"][point][task]["pass"] for run in result["runs"]]
            values = [[seed[k] for seed in seeds] for k in seeds[0]]
            plot.draw_range(ax, index, list(map(int, seeds[0])), values, {})
        ax.set_xscale("log", base=2)
        ax.set_xticks([1, 8, 128], ["1", "8", "128"])
        ax.minorticks_off()
        ax.set(title=task.removeprefix("tiny/"), ylim=(-0.03, 1.05), xlabel="k", ylabel="pass@k")
    solved = {point: [] for point in points}
    for run, point in product(result["runs"], points):
        for one in run["pass_at_k"][point].values():
            solved[point] += one["solved"]
    plot.draw_histogram(cells[len(experiment.tasks)], list(solved.values()))
    cells[len(experiment.tasks)].set(title="all problems by pass@1")
    return points


def draw_claims(ax, judged: list[Judged], *, deck: bool = False) -> None:
    """The mean difference and interval of each claim that has been run.

    The unit is the smallest effect worth talking about.
    """
    judged = [one for one in judged if one.differences]
    ax.axvspan(-1, 1, color="0.92", zorder=0)
    ax.axvline(0, color="black", linewidth=0.8)
    for place, one in enumerate(judged):
        colour, marker = MARKS[one.verdict]
        unit = one.worth or 1.0
        low, middle, high = (
            max(-FURTHEST, min(FURTHEST, value / unit)) for value in (one.low, one.mean, one.high)
        )
        ax.plot([low, high], [place, place], color=colour, linewidth=2.2)
        if abs(one.mean / unit) > FURTHEST:
            marker = ">" if one.mean > 0 else "<"
        ax.plot(middle, place, marker, color=colour, markersize=6)
        ax.text(FURTHEST + 0.3, place, one.verdict, va="center", color="black", fontsize=8)
    labels = [one.claim.deck if deck else textwrap.fill(one.claim.sentence, 62) for one in judged]
    ax.set_yticks(range(len(judged)), labels, fontsize=7)
    ax.set(xlim=(-FURTHEST - 0.2, FURTHEST + 0.2), ylim=(len(judged) - 0.5, -0.5))
    ax.set_xlabel(
        "← against the claim     |     smallest effects worth talking about     |     with it →"
    )
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
