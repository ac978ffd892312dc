"""The figure of an experiment: curves above, and below them all claims in one forest plot."""

import math
import textwrap
from collections import Counter
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt

from lab.papers import Experiment, arm
from lab.verdicts import Judged
from tools import plot
from tools.panels import panel_of

WIDTH = 9.0  # inches: readable when a README shows it 800 pixels wide
COLUMNS = 4  # of pass@k panels
FURTHEST = 6  # in units of the smallest effect worth talking about; what lies beyond gets an arrow
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
    run = [one for one in judged if one.differences]
    metrics = [m for m in experiment.panels if all(m in r["curves"] for r in result["runs"])]
    facets = [facet for facet in experiment.arms if arms_run(experiment, result, facet)]
    has_ladders = bool(experiment.tasks)
    rows, columns = grid(len(metrics), len(facets), len(experiment.tasks))
    above, below = 2.3 * rows, 0.7 + 0.33 * len(run)  # inches
    with plt.rc_context(plot.STYLE | {"font.size": 8, "axes.titlesize": 9}):
        figure = plt.figure(figsize=(WIDTH, above + below), layout="constrained")
        note = f"{seed_counts(result)} paired seeds"
        if rows:
            upper, lower = figure.subfigures(2, 1, height_ratios=[above, below])
            cells = upper.subplots(rows, columns, squeeze=False)
            if has_ladders:
                handles = draw_ladders(cells, experiment, result)
            else:
                handles = draw_curves(cells, experiment, result, metrics, facets)
            draw_claims(lower.subplots(), run)
            note += ", in bands from the lowest to the highest"
            wide = 5 if len(handles) <= 5 else 3
            upper.legend(handles=handles, loc="outside lower center", ncols=wide, title=note)
        else:
            draw_claims(figure.subplots(), run)
            figure.suptitle(note, fontsize=8)
        figure.savefig(out, dpi=130)
        plt.close(figure)


def draw_deck(judged: list[Judged], out: Path) -> None:
    """Write one figure of the deck's claims to the PNG `out`."""
    run = [one for one in judged if one.differences]
    with plt.rc_context(plot.STYLE | {"font.size": 8}):
        size = (WIDTH, 0.7 + 0.27 * len(run))
        figure, ax = plt.subplots(figsize=size, layout="constrained")
        draw_claims(ax, run, [one.claim.deck for one in run])
        figure.savefig(out, dpi=130)
        plt.close(figure)


def grid(metrics: int, facets: int, tasks: int) -> tuple[int, int]:
    """Rows and columns of the panels above the claims."""
    if tasks:  # a panel a task, and two more
        return math.ceil((tasks + 2) / COLUMNS), COLUMNS
    return (metrics, facets) if facets > 1 else (math.ceil(metrics / 2), 2)


def arms_run(experiment: Experiment, result: dict, facet: str) -> list[str]:
    """The labels of a facet's arms that have been run."""
    seen = {run["arm"] for run in result["runs"]}
    return [label for label in experiment.arms[facet] if arm(facet, label) in seen]


def draw_curves(cells, experiment: Experiment, result: dict, metrics: list, facets: list) -> list:
    """Metrics over steps: with several facets a column each, with one in two columns."""
    labels: dict[str, None] = {}
    for column, facet in enumerate(facets):
        run = arms_run(experiment, result, facet)
        labels |= dict.fromkeys(run)
        for row, metric in enumerate(metrics):
            groups = {
                label: [
                    as_rows(run["curves"], metric) for run in runs_of(result, arm(facet, label))
                ]
                for label in run
            }
            panel = panel_of(metric)
            if facet:
                panel = panel._replace(title=f"{facet}:\n{panel.title.lower()}")
            ax = cells.flat[row * len(facets) + column]
            block = max(1, result["steps"] // 30)
            plot.draw_metric(ax, panel, groups, last=result["steps"], block=block)
    for ax in cells.flat[len(metrics) * len(facets) :]:
        ax.remove()
    return [plt.Line2D([], [], label=label, **plot.line_style(i)) for i, label in enumerate(labels)]


def runs_of(result: dict, name: str) -> list[dict]:
    return [run for run in result["runs"] if run["arm"] == name]


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


def draw_ladders(cells, experiment: Experiment, result: dict) -> list:
    """pass@k of each task before, midway and after, and two panels about all tasks together."""
    axes, points = list(cells.flat), list(experiment.points)
    for ax, task in zip(axes, experiment.tasks, strict=False):
        for index, point in enumerate(points):
            seeds = [run["pass_at_k"][point][task]["pass"] for run in result["runs"]]
            values = [[seed[k] for seed in seeds] for k in seeds[0]]
            plot.draw_range(ax, index, list(map(int, seeds[0])), values, {})
        ax.set_xscale("log", base=2)
        ax.set_xticks([1, 8, 128], ["1", "8", "128"])
        ax.minorticks_off()
        ax.set(title=task.removeprefix("tiny/"), ylim=(-0.03, 1.05), xlabel="k", ylabel="pass@k")
    rises, shift, *unused = axes[len(experiment.tasks) :]
    draw_rises(rises, experiment, result)
    plot.draw_histogram(shift, [solved(experiment, result, point) for point in points])
    shift.set(title="all problems by pass@1")
    for ax in unused:
        ax.remove()
    return [plt.Line2D([], [], label=point, **plot.line_style(i)) for i, point in enumerate(points)]


def draw_rises(ax, experiment: Experiment, result: dict) -> None:
    """Does a weak start go with a strong gain? A dot a task."""
    for task in experiment.tasks:
        before, after = (
            fmean(run["pass_at_k"][point][task]["pass"]["128"] for run in result["runs"])
            for point in ("before", "after")
        )
        ax.plot(before, after - before, "o", color=plot.COLOURS[0], alpha=0.6)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(title="rise by start, a dot a task", xlabel="pass@128 before", ylabel="rise")


def solved(experiment: Experiment, result: dict, point: str) -> list[float]:
    """pass@1 of every problem of every task and seed."""
    return [
        share
        for run in result["runs"]
        for task in experiment.tasks
        for share in run["pass_at_k"][point][task]["solved"]
    ]


def draw_claims(ax, judged: list[Judged], labels: list[str] | None = None) -> None:
    """Each claim's mean difference and interval, in units of the smallest effect worth noting."""
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
    labels = labels or [textwrap.fill(str(one.claim), 62) for one in judged]
    ax.set_yticks(range(len(judged)), labels, fontsize=7)
    ax.set(xlim=(-FURTHEST - 0.2, FURTHEST + 0.2), ylim=(len(judged) - 0.5, -0.5))
    ax.set_xlabel(
        "← against the claim     |     smallest effects worth talking about     |     with it →"
    )
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
