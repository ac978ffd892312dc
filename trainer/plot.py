"""Draw what runs wrote down, or what evaluations measured.

    python plot.py runs/justrl-tiny-seed0                      # its curves: runs/justrl-tiny-seed0/curves.png
    python plot.py runs/justrl-tiny-seed* runs/prorl-tiny-seed* --out both.png
    python plot.py evals/base/eval.json evals/trained/eval.json --out pass_at_k.png

Runs whose folders differ by -seedN alone are seeds of one experiment: drawn as their mean, in a band from the lowest to
the highest. Colours are Okabe and Ito's, safe for colour-blind eyes; dashes and markers tell the lines apart in grey.
"""

import argparse
import contextlib
import json
import math
import re
import sys
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.ticker import MaxNLocator, NullFormatter

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
DASHES = [
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (9, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (3, 3)),
]
MARKERS = "osD^vPX"
HATCHES = ["", "////", "....", "xxxx", "\\\\\\\\", "++", "oo"]
STYLE = {"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
STYLE |= {
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "legend.title_fontsize": 9,
}
# (title, unit, {metric: its name where a panel may have two; the first that is there is drawn bold}, logarithmic)
PANELS = [
    ("Reward", "mean of answers", {"reward": ""}, False),
    ("Held-out accuracy", "share solved", {"eval_accuracy": ""}, False),
    ("Response length", "tokens", {"length": ""}, False),
    ("Entropy", "nats per token", {"entropy": ""}, False),
    ("Log-prob gap, engine to trainer", "nats per token", {"logp_gap": ""}, True),
    (
        "Clipped tokens",
        "share of tokens",
        {"clip_fraction_high": "above", "clip_fraction_low": "below"},
        False,
    ),
    (
        "KL divergence",
        "nats per token",
        {"kl": "to the reference", "approx_kl": "of the update"},
        False,
    ),
    ("Gradient norm", "before clipping", {"grad_norm": ""}, False),
]


# ---------------------------------------------------------------------------------------------------------------- runs


def read_metrics(run: Path) -> list[dict]:
    """The steps of a run, in order: of a step written twice the later, without a line that is still being written.

    Raises FileNotFoundError without metrics.jsonl, ValueError when it has no step yet.
    """
    path, steps = run / "metrics.jsonl", {}
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}: give a run folder, or the eval.json of an evaluation."
        )
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            steps[row["step"]] = row
    if not steps:
        raise ValueError(f"{path} has no step yet: wait for the first one.")
    return [steps[step] for step in sorted(steps)]


def group_seeds(runs: list[Path]) -> dict[str, list[list[dict]]]:
    """{label: each seed's metrics}; the label is the folder's name without -seedN, with its parent if two are alike."""
    groups = {}
    for run in runs:
        folder = run.resolve()
        name = re.sub(r"[-_]?seed[-_]?\d+$", "", folder.name)
        key = (
            (folder.parent, name) if name else (folder.parent.parent, folder.parent.name)
        )  # NAME/seed0 is NAME's
        groups.setdefault(key, []).append(read_metrics(run))
    names = [name for _, name in groups]
    return {
        name if names.count(name) == 1 else f"{parent.name}/{name}": g
        for (parent, name), g in groups.items()
    }


def is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def series(metrics: list[dict], key: str, block: int) -> dict[float, float]:
    """{step: value}, means over blocks of steps, at their middle, so that thousands of noisy steps stay readable."""
    blocks = {}
    for row in metrics:
        if is_number(row.get(key)):
            blocks.setdefault((row["step"] - 1) // block, []).append(row[key])
    return {b * block + (block + 1) / 2: fmean(values) for b, values in blocks.items()}


def resets(seeds: list[list[dict]]) -> set[int]:
    """Steps at which a seed's reference policy was reset."""
    return {row["step"] for metrics in seeds for row in metrics if row.get("event") == "reset"}


def look(index: int, points: int = 1) -> dict:
    """Colour, dashes and a few markers of the index-th line."""
    every = math.ceil(points / 6)
    style = {
        "color": COLOURS[index % 7],
        "linestyle": DASHES[index % 7],
        "marker": MARKERS[index % 7],
        "linewidth": 1.7,
    }
    return style | {"markersize": 4.5, "markevery": (index * every // 3 % every, every)}


def draw_metric(
    ax, panel: tuple, groups: dict[str, list[list[dict]]], last: int, block: int
) -> None:
    title, unit, names, logarithmic = panel
    rows = [row for seeds in groups.values() for metrics in seeds for row in metrics]
    keys = [key for key in names if any(is_number(row.get(key)) for row in rows)]
    for index, seeds in enumerate(groups.values()):
        for key in keys:
            curves = [
                series(metrics, key, 1 if key == "eval_accuracy" else block) for metrics in seeds
            ]
            steps = sorted(set.intersection(*map(set, curves)))
            values = [[curve[step] for curve in curves] for step in steps]
            if steps:
                fine = (
                    {}
                    if key == keys[0]
                    else {"linewidth": 0.8, "markersize": 3.5, "markerfacecolor": "white"}
                )
                ax.plot(steps, [fmean(v) for v in values], **look(index, len(steps)) | fine)
                low, high = zip(*((min(v), max(v)) for v in values), strict=True)
                ax.fill_between(steps, low, high, color=COLOURS[index % 7], alpha=0.2, linewidth=0)
        for step in resets(seeds):
            ax.axvline(step, color=COLOURS[index % 7], linewidth=1.2, linestyle=":")
    if names[keys[0]]:
        title += "\n" + (
            names[keys[0]] if len(keys) == 1 else f"bold: {names[keys[0]]}, fine: {names[keys[1]]}"
        )
    room = max(1, 0.03 * last)
    ax.set(title=title, xlabel="step", ylabel=unit, xlim=(-room, last + room))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if logarithmic and math.isfinite(smallest := ax.dataLim.minposy):
        largest = max(smallest, ax.dataLim.y1)
        ax.set(
            yscale="log",
            ylim=(
                10 ** math.floor(math.log10(smallest)),
                10 ** math.floor(math.log10(largest) + 1),
            ),
        )
        ax.yaxis.set_minor_formatter(NullFormatter())


def plot_runs(runs: list[Path], out: Path) -> None:
    """Write the curves of one or more runs to the PNG `out`. A panel that no run has numbers for is left out.

    Raises FileNotFoundError or ValueError when a run has no metrics.
    """
    groups = group_seeds([Path(run) for run in runs])
    rows = [row for seeds in groups.values() for metrics in seeds for row in metrics]
    panels = [
        panel
        for panel in PANELS
        if any(is_number(row.get(key)) for row in rows for key in panel[2])
    ]
    if not panels:
        raise ValueError("These runs have no numbers to draw yet: wait for the first step.")
    last = max(row["step"] for row in rows)
    block = max(1, last // 60)
    with plt.rc_context(STYLE):
        figure, axes = panel_grid(math.ceil(len(panels) / 4), min(4, len(panels)))
        for ax, panel in zip(axes.flat, panels, strict=False):
            draw_metric(ax, panel, groups, last, block)
        for ax in axes.flat[len(panels) :]:
            ax.remove()
        seeded = {f"{k} ({len(v)} seeds)" if len(v) > 1 else k: v for k, v in groups.items()}
        handles = [plt.Line2D([], [], label=label, **look(i)) for i, label in enumerate(seeded)]
        if any(map(resets, groups.values())):
            handles.append(
                plt.Line2D([], [], color="grey", linestyle=":", label="reference policy reset")
            )
        notes = [f"means of {block} steps, held-out accuracy apart"] * (block > 1)
        notes += ["bands from the lowest seed to the highest"] * any(
            len(seeds) > 1 for seeds in groups.values()
        )
        finish(figure, handles, out, "; ".join(notes))


def plot_run(run: Path, out: Path) -> None:
    """Write one run's curves to the PNG `out`; the training scripts call this at their end."""
    plot_runs([run], out)


# --------------------------------------------------------------------------------------------------------- evaluations


def plot_evals(evaluations: list[dict], out: Path, comparison: dict | None = None) -> None:
    """Write pass@k curves with 95 % intervals over problems, and histograms of pass@1, to the PNG `out`.

    evaluations: values of eval.json. Two panels for each task that all of them have. With evaluate.py's comparison the
    titles name the regimes, and two more panels show the rise over the start. Raises ValueError without such a task.
    """
    tasks = [
        task for task in evaluations[0]["tasks"] if all(task in e["tasks"] for e in evaluations)
    ]
    if not tasks:
        raise ValueError("These evaluations share no task: there is nothing to draw side by side.")
    rises = comparison is not None and len(tasks) > 2
    columns = min(5, len(tasks) + rises)
    with plt.rc_context(STYLE):
        figure, axes = panel_grid(2 * math.ceil((len(tasks) + rises) / columns), columns)
        pairs = [
            pair
            for row in range(0, len(axes), 2)
            for pair in zip(axes[row], axes[row + 1], strict=True)
        ]
        for task, (upper, lower) in zip(tasks, pairs, strict=False):
            draw_pass_at_k(upper, [e["tasks"][task]["robust"] for e in evaluations])
            upper.set_title(
                f"{task}: {comparison['tasks'][task]['regime']}" if comparison else task
            )
            draw_histogram(lower, [e["tasks"][task]["solved"] for e in evaluations])
        if rises:
            draw_rises(*pairs[len(tasks)], comparison)
        for ax in [ax for pair in pairs[len(tasks) + rises :] for ax in pair]:
            ax.remove()
        handles = [
            plt.Line2D([], [], label=e["name"], **look(i)) for i, e in enumerate(evaluations)
        ]
        finish(figure, handles, out, "robust verifier; bars: 95 % interval over problems")


def draw_pass_at_k(ax, curves: list[dict[str, list[float]]]) -> None:
    for index, curve in enumerate(curves):
        bars = [
            [m - low for m, low, _ in curve.values()],
            [high - m for m, _, high in curve.values()],
        ]
        places = [int(k) * 1.07**index for k in curve]  # side by side
        middles = [m for m, _, _ in curve.values()]
        ax.errorbar(
            places, middles, bars, capsize=2, elinewidth=0.9, **look(index) | {"markevery": 1}
        )
    ks = sorted({int(k) for curve in curves for k in curve})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, map(str, ks))
    ax.minorticks_off()
    ax.set(xlabel="k", ylabel="pass@k", ylim=(-0.03, 1.05))


def draw_histogram(ax, solved: list[list[float]], bins: int = 10) -> None:
    """Share of problems by pass@1 in bins, the evaluations side by side; pass@1 of 1 falls into the last bin."""
    width = 0.9 / bins / len(solved)
    for index, values in enumerate(solved):
        places = [min(int(value * bins), bins - 1) for value in values]
        left = [(b + 0.05) / bins + index * width for b in range(bins)]
        colour, heights = COLOURS[index % 7], [places.count(b) / len(values) for b in range(bins)]
        fill = {
            "facecolor": colour + "66",
            "edgecolor": colour,
            "hatch": HATCHES[index % 7],
            "linewidth": 0.8,
        }
        ax.bar(left, heights, width, align="edge", **fill)
    ax.set(xlabel="pass@1 of a problem", ylabel="share of problems", xlim=(0, 1))


def draw_rises(upper, lower, comparison: dict) -> None:
    """Does a weak start go with a strong gain? (ProRL, figure 3.) Tasks by their start, the weakest on top."""
    tasks = sorted(comparison["tasks"].items(), key=lambda item: -item[1]["pass_max"][0])
    for ax, key, name in ((upper, "rise_1", "pass@1"), (lower, "rise_max", "pass@K")):
        ax.plot([row[key] for _, row in tasks], range(len(tasks)), "o", color=COLOURS[0])
        ax.set_yticks(
            range(len(tasks)),
            [f"{task} {row['pass_max'][0]:.2f}" for task, row in tasks],
            fontsize=8,
        )
        ax.axvline(0, color="grey", linewidth=0.8)
        ax.margins(0.15)
        ax.set(xlabel="rise (beside each task: its pass@K before)")
        rank = comparison["spearman"][key]
        ax.set_title(f"Rise of {name}" + ("" if rank is None else f", Spearman {rank:.2f}"))


# ------------------------------------------------------------------------------------------------------------- figures


def panel_grid(rows: int, columns: int):
    return plt.subplots(
        rows, columns, figsize=(3.7 * columns, 2.8 * rows), squeeze=False, layout="constrained"
    )


def finish(figure, handles: list, out: Path, note: str) -> None:
    """Write the file, with the legend and a note below all panels."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, int(figure.get_figwidth() / (0.9 + 0.085 * longest)))  # inches
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        handlelength=4,
        title=note or None,
    )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RUN|EVAL.json",
        type=Path,
        help="run folders, or eval.json files",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="PNG (curves.png in the first run, pass_at_k.png beside the first eval)",
    )
    args = parser.parse_args()
    evals = [path / "eval.json" if path.is_dir() else path for path in args.sources]
    try:
        if all(path.is_file() for path in evals):
            out = args.out or evals[0].with_name("pass_at_k.png")
            plot_evals([json.loads(path.read_text()) for path in evals], out)
        else:
            out = args.out or args.sources[0] / "curves.png"
            plot_runs(args.sources, out)
    except (ValueError, OSError) as error:
        sys.exit(f"plot.py: {error}")
    print(f"Written to {out}")


if __name__ == "__main__":
    main()
