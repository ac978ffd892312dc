"""Draw the curves of runs, or what evaluations measured.

    python -m tools.plot runs/justrl-tiny-seed0              # writes its curves.png
    python -m tools.plot runs/justrl-tiny-seed* runs/prorl-tiny-seed* --out both.png
    python -m tools.plot runs/mine --metrics reward,my_metric
    python -m tools.plot evals/base evals/trained --out pass_at_k.png

Every number in metrics.jsonl that the trainer does not log itself gets a panel of its own. Runs
whose folders differ only by -seedN are seeds of one experiment. They are drawn as their mean, in a
band from the lowest to the highest. The colours are those of Okabe and Ito, which colour-blind
readers can tell apart. Dashes and markers tell the lines apart in grey.
"""

import argparse
import math
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from tools.evaluation.comparison import read_evaluation, shared_tasks
from tools.panels import Panel, choose, is_number
from trainer.errors import Refused
from trainer.run.files import read_jsonl

# matplotlib is imported where it draws: every training script imports this file.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
DASHES = ["-", "--", "-.", ":"]
MARKERS = "osD^vPX"
STYLE = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "legend.title_fontsize": 9,
}


# --- runs ---


def read_metrics(run: Path) -> list[dict]:
    """The steps of a run, in order. If a step was written twice, the later line counts.

    Raises Refused without metrics.jsonl, or when it has no step yet.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise Refused(f"There is no {path}: give a run folder, or the eval.json of an evaluation.")
    steps = {row["step"]: row for row in read_jsonl(path) if is_number(row.get("step"))}
    if not steps:
        raise Refused(f"{path} has no step yet: wait for the first one.")
    return [steps[step] for step in sorted(steps)]


def group_seeds(runs: list[Path]) -> dict[str, list[list[dict]]]:
    """{label: each seed's metrics}.

    The label is the folder's name without -seedN. If two labels are equal, each gets its parent's
    name in front. A folder NAME/seed0 belongs to NAME.
    """
    groups = {}
    for run in runs:
        folder = run.resolve()
        name = re.sub(r"[-_]?seed[-_]?\d+$", "", folder.name)
        key = (folder.parent, name) if name else (folder.parent.parent, folder.parent.name)
        groups.setdefault(key, []).append(read_metrics(run))
    names = [name for _, name in groups]
    return {
        name if names.count(name) == 1 else f"{parent.name}/{name}": seeds
        for (parent, name), seeds in groups.items()
    }


def series(metrics: list[dict], key: str, block: int) -> dict[float, float]:
    """{middle of a block of steps: mean over the block}.

    Blocks keep thousands of noisy steps readable.
    """
    blocks = {}
    for row in metrics:
        if is_number(row.get(key)):
            blocks.setdefault((row["step"] - 1) // block, []).append(row[key])
    return {b * block + (block + 1) / 2: fmean(values) for b, values in blocks.items()}


def resets(seeds: list[list[dict]]) -> set[int]:
    """Steps at which a seed's reference policy was reset."""
    return {row["step"] for metrics in seeds for row in metrics if row.get("event") == "reset"}


def line_style(index: int) -> dict:
    """Colour, dashes and a few markers for the line of this index."""
    return {
        "color": COLOURS[index % 7],
        "linestyle": DASHES[index % 4],
        "marker": MARKERS[index % 7],
        "linewidth": 1.7,
        "markersize": 4.5,
        "markevery": (0.04 * (index % 4), 0.16),  # in axes' diagonals; lines differ in where
    }


FINE = {"linewidth": 0.8, "markersize": 3.5, "markerfacecolor": "white"}


def draw_metric(
    ax, panel: Panel, groups: dict[str, list[list[dict]]], *, last: int, block: int
) -> None:
    """Draw one panel. last: the last step of all runs. block: how many steps are averaged."""
    from matplotlib.ticker import MaxNLocator

    rows = [row for seeds in groups.values() for metrics in seeds for row in metrics]
    keys = [key for key in panel.metrics if any(is_number(row.get(key)) for row in rows)]
    for index, seeds in enumerate(groups.values()):
        for key in keys:
            span = 1 if key == "eval_accuracy" else block
            curves = [series(metrics, key, span) for metrics in seeds]
            if steps := sorted(set.intersection(*map(set, curves))) if curves else []:
                values = [[curve[step] for curve in curves] for step in steps]
                draw_range(ax, index, steps, values, {} if key == keys[0] else FINE)
        for step in resets(seeds):
            ax.axvline(step, color=COLOURS[index % 7], linewidth=1.2, linestyle=":")
    names = [panel.metrics[key] for key in keys]
    which = f"bold: {names[0]}, fine: {names[1]}" if len(names) > 1 else names[0]
    title = f"{panel.title}\n{which}".rstrip()
    room = max(1, 0.03 * last)
    ax.set(title=title, xlabel="step", ylabel=panel.unit, xlim=(-room, last + room))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if panel.logarithmic and math.isfinite(ax.dataLim.minposy):
        ax.set_yscale("log")


def draw_range(ax, index: int, places: list, values: list[list[float]], style: dict) -> None:
    """Draw the mean of the values at each place, in a band from the lowest to the highest."""
    ax.plot(places, list(map(fmean, values)), **line_style(index) | style)
    low, high = list(map(min, values)), list(map(max, values))
    ax.fill_between(places, low, high, color=COLOURS[index % 7], alpha=0.2, linewidth=0)


def plot_runs(runs: list[Path], out: Path, metrics: list[str] | None = None) -> None:
    """Write the curves of one or more runs to the PNG `out`.

    metrics: the ones to draw; by default see tools.panels.choose. Raises Refused when a run has no
    metrics, or none of these.
    """
    groups = group_seeds([Path(run) for run in runs])
    rows = [row for seeds in groups.values() for seed in seeds for row in seed]
    panels = choose((key for row in rows for key in row if is_number(row[key])), metrics)
    if not panels:
        raise Refused("These runs have no numbers to draw yet: wait for the first step.")
    last = max(row["step"] for row in rows)
    block = max(1, last // 60)
    height = math.ceil(len(panels) / 4)
    with new_figure(height, math.ceil(len(panels) / height)) as (figure, axes):
        for ax, panel in zip(axes.flat, panels, strict=False):
            draw_metric(ax, panel, groups, last=last, block=block)
        lines, notes = {}, []
        for index, (label, seeds) in enumerate(groups.items()):
            count = f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""
            lines[label + count] = line_style(index)
        if any(map(resets, groups.values())):
            lines["reference policy reset"] = {"color": "grey", "linestyle": ":"}
        if block > 1:
            notes.append(f"means of {block} steps, except held-out accuracy")
        if any(len(seeds) > 1 for seeds in groups.values()):
            notes.append("bands from the lowest seed to the highest")
        save_figure(figure, lines, out, "; ".join(notes))


def plot_run(run: Path, out: Path) -> None:
    """Write one run's curves to the PNG `out`; the training scripts call this at their end."""
    plot_runs([run], out)


# --- evaluations ---


def plot_evals(evaluations: list[dict], out: Path, comparison: dict | None = None) -> None:
    """Write pass@k curves with 95 % intervals and histograms of pass@1 to the PNG `out`.

    evaluations: values of eval.json. Each task that all of them have gets two panels, one below the
    other. comparison: the value of compare.json; then the titles name the regimes. Raises
    Refused if the evaluations share no task.
    """
    tasks = shared_tasks(evaluations)
    columns = min(5, len(tasks))
    with new_figure(2 * math.ceil(len(tasks) / columns), columns) as (figure, axes):
        for task, upper, lower in zip(tasks, axes[0::2].flat, axes[1::2].flat, strict=False):
            draw_pass_at_k(upper, [e["tasks"][task]["robust"] for e in evaluations])
            title = f"{task}: {comparison['tasks'][task]['regime']}" if comparison else task
            upper.set_title(title)
            draw_histogram(lower, [e["tasks"][task]["solved"] for e in evaluations])
        lines = {e["name"]: line_style(index) for index, e in enumerate(evaluations)}
        save_figure(figure, lines, out, "robust verifier; bars: 95 % interval over problems")


def draw_pass_at_k(ax, curves: list[dict[str, list[float]]]) -> None:
    """One curve for each evaluation. curves: {k: [pass@k, low, high]}."""
    for index, curve in enumerate(curves):
        middles = [middle for middle, _, _ in curve.values()]
        below = [middle - low for middle, low, _ in curve.values()]
        above = [high - middle for middle, _, high in curve.values()]
        places = [int(k) * 1.07**index for k in curve]  # side by side
        style = line_style(index) | {"markevery": 1}
        ax.errorbar(places, middles, [below, above], capsize=2, elinewidth=0.9, **style)
    ks = sorted({int(k) for curve in curves for k in curve})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, map(str, ks))
    ax.minorticks_off()
    ax.set(xlabel="k", ylabel="pass@k", ylim=(-0.03, 1.05))


def draw_histogram(ax, solved: list[list[float]], bins: int = 10) -> None:
    """The share of problems in each bin of pass@1, evaluations side by side.

    A pass@1 of 1 falls into the last bin.
    """
    width = 0.9 / bins / len(solved)
    for index, values in enumerate(solved):
        places = [min(int(value * bins), bins - 1) for value in values]
        left = [(b + 0.05) / bins + index * width for b in range(bins)]
        colour, heights = COLOURS[index % 7], [places.count(b) / len(values) for b in range(bins)]
        ax.bar(left, heights, width, align="edge", facecolor=colour + "66", edgecolor=colour)
    ax.set(xlabel="pass@1 of a problem", ylabel="share of problems", xlim=(0, 1))


# --- figures ---


@contextmanager
def new_figure(rows: int, columns: int):
    """(figure, its grid of axes) in our style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.7 * columns, 2.8 * rows), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure, lines: dict[str, dict], out: Path, note: str) -> None:
    """Write the file, with a legend and a note below all panels. lines: {label: its style}.

    Panels that nothing was drawn in are left out.
    """
    from matplotlib.lines import Line2D

    for ax in figure.axes:
        if not ax.has_data():
            ax.remove()
    handles = [Line2D([], [], label=label, **style) for label, style in lines.items()]
    columns = max(1, int(figure.get_figwidth() / (0.9 + 0.085 * max(map(len, lines)))))  # inches
    place = "outside lower center"
    figure.legend(handles=handles, loc=place, ncols=columns, handlelength=4, title=note or None)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    sources = "run folders, or evaluations (folders or eval.json files)"
    add("sources", nargs="+", metavar="RUN|EVAL", type=Path, help=sources)
    add("--metrics", type=lambda text: text.split(","), help="of runs: draw only these, NAME,NAME")
    out = "default: curves.png in the first run, pass_at_k.png next to the first eval.json"
    add("--out", type=Path, help=out)
    args = parser.parse_args()
    if args.out and args.out.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--out takes a .png, .pdf or .svg file, not {args.out}")
    evals = [path / "eval.json" if path.is_dir() else path for path in args.sources]
    try:
        if all(path.is_file() for path in evals) and not args.metrics:
            out = args.out or evals[0].with_name("pass_at_k.png")
            plot_evals([read_evaluation(path) for path in evals], out)
        else:
            out = args.out or args.sources[0] / "curves.png"
            plot_runs(args.sources, out, args.metrics)
    except (Refused, OSError) as error:
        sys.exit(f"plot.py: {error}")
    print(f"Written to {out}")


if __name__ == "__main__":
    main()
