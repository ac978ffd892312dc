import json
import math
import random
import sys
from pathlib import Path

import pytest
from conftest import write_jsonl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from test_evaluate import BASE, TRAINED, made_up, write_made_up

from tools import plot
from tools.evaluation.comparison import compare


def make_run(folder: Path, steps: int, seed: int = 0, kl: bool = False, resets: tuple = ()) -> Path:
    """A run folder with metrics as the training scripts write them."""
    rng, rows = random.Random(seed), [{"step": 0, "eval_accuracy": 0.4}]
    for step in range(1, steps + 1):
        gained = 1 - math.exp(-3 * step / steps)
        row = {"step": step, "reward": gained - 0.5 + rng.gauss(0, 0.05)}
        row |= {"truncated": 0.1, "length": 60 - 20 * gained, "entropy": 0.5 - 0.3 * gained}
        row |= {"logp_gap": 1e-6 * rng.random(), "grad_norm": rng.random()}
        row |= {"clip_fraction_low": 0.001, "clip_fraction_high": 0.004, "approx_kl": 0.002}
        row |= {"kl": 0.01 * gained} if kl else {}
        row |= {"event": "reset"} if step in resets else {}
        row |= {"eval_accuracy": 0.4 + gained / 2} if step % max(1, steps // 5) == 0 else {}
        rows.append(row)
    folder.mkdir(parents=True)
    write_jsonl(folder / "metrics.jsonl", rows)
    return folder


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **k: (saved.append(figure), save(figure, *a, **k))
    )
    return saved


def check_picture(path: Path, colours: int = 20):
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 200
    assert len({tuple(p) for p in pixels[::3, ::3].reshape(-1, pixels.shape[2]).tolist()}) > colours


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def check_layout(figure):
    """Nothing sticks out of the picture, and no two titles or legend entries overlap."""
    canvas = FigureCanvasAgg(figure)
    renderer, page = canvas.get_renderer(), figure.bbox
    texts = [ax.title for ax in figure.axes]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for box in boxes + [ax.get_tightbbox(renderer) for ax in figure.axes]:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_run_becomes_nine_panels(tmp_path, figures):
    run = make_run(tmp_path / "prorl-seed0", 40, kl=True, resets=(20,))
    plot.plot_run(run, run / "curves.png")
    check_picture(run / "curves.png")
    (figure,) = figures
    assert len(figure.axes) == 9
    assert "KL divergence\nbold: to the reference, fine: of the update" in titles(figure)
    accuracy = next(ax for ax in figure.axes if ax.get_title() == "Held-out accuracy")
    assert list(accuracy.lines[0].get_xdata()) == [0, 8, 16, 24, 32, 40]
    assert any(set(line.get_xdata()) == {20} for line in accuracy.lines)  # the reset
    assert "reference policy reset" in [text.get_text() for text in figure.legends[0].get_texts()]
    check_layout(figure)


def test_a_users_own_metric_gets_a_panel_and_metrics_can_be_chosen(tmp_path, figures):
    run = make_run(tmp_path / "mine", 4)
    with (run / "metrics.jsonl").open("a") as file:
        row = {"step": 5, "advantage_max": 2, "seconds_x": 1, "tokens": 9, "on": True, "s": "x"}
        file.write(json.dumps(row) + "\n")
    plot.plot_run(run, tmp_path / "all.png")
    plot.plot_runs([run], tmp_path / "two.png", ["advantage_max", "tokens"])
    assert titles(figures[0])[9:] == ["advantage_max"]
    assert titles(figures[1]) == ["advantage_max", "tokens"]
    with pytest.raises(ValueError, match=r"named advantage; there are .*advantage_max"):
        plot.plot_runs([run], tmp_path / "none.png", ["advantage"])


def test_runs_are_overlaid_and_seeds_averaged(tmp_path, figures):
    runs = [
        make_run(tmp_path / f"{name}-seed{s}", 30, s)
        for name in ("justrl-tiny", "prorl-tiny")
        for s in range(3)
    ]
    plot.plot_runs(runs, tmp_path / "both.png")
    (figure,) = figures
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["justrl-tiny (3 seeds)", "prorl-tiny (3 seeds)"]
    reward = figure.axes[0]
    seeds = [plot.series(plot.read_metrics(run), "reward", 1) for run in runs[:3]]
    assert reward.lines[0].get_ydata()[9] == pytest.approx(sum(curve[10] for curve in seeds) / 3)
    band = reward.collections[0].get_paths()[0].get_extents()
    assert band.y1 == pytest.approx(max(max(curve.values()) for curve in seeds))
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in reward.lines}
    # They can be told apart without colour, too.
    assert len(looks) == len({line.get_marker() for line in reward.lines}) == 2
    check_layout(figure)


def test_seeds_in_folders_of_their_own_and_names_alike(tmp_path):
    runs = [make_run(tmp_path / "a" / "arm" / f"seed{s}", 3, s) for s in range(2)]
    runs += [make_run(tmp_path / "b" / "arm" / "seed0", 3), make_run(tmp_path / "other", 3)]
    groups = plot.group_seeds(runs)
    sizes = {label: len(seeds) for label, seeds in groups.items()}
    assert sizes == {"a/arm": 2, "b/arm": 1, "other": 1}


def test_thousands_of_steps_are_drawn_as_means(tmp_path, figures):
    run = make_run(tmp_path / "long", 3000)
    plot.plot_run(run, tmp_path / "long.png")
    (figure,) = figures
    assert len(figure.axes[0].lines[0].get_xdata()) == 60
    assert "means of 50 steps" in figure.legends[0].get_title().get_text()
    metrics = plot.read_metrics(run)
    curve, raw = plot.series(metrics, "reward", 50), plot.series(metrics, "reward", 1)
    assert curve[25.5] == pytest.approx(sum(raw[step] for step in range(1, 51)) / 50)
    check_layout(figure)


@pytest.mark.parametrize(("steps", "panels"), [(0, 1), (1, 9)])
def test_very_short_runs_are_readable(tmp_path, figures, steps, panels):
    run = make_run(tmp_path / "short", steps)
    plot.plot_run(run, tmp_path / "short.png")
    assert len(figures[0].axes) == panels
    check_picture(tmp_path / "short.png", colours=3)
    check_layout(figures[0])


def test_numbers_that_are_none_or_not_finite_are_left_out():
    values = [None, math.nan, 1.0, math.inf, 2.0]
    metrics = [{"step": step, "kl": value} for step, value in enumerate(values)]
    assert plot.series(metrics, "kl", 1) == {2: 1.0, 4: 2.0}


def test_evaluations_become_curves_and_histograms(tmp_path, figures):
    evaluations = [made_up("base", BASE), made_up("trained", TRAINED)]
    plot.plot_evals(evaluations, tmp_path / "evals.png")
    check_picture(tmp_path / "evals.png")
    plot.plot_evals(evaluations, tmp_path / "compare.png", compare(evaluations))
    figure, compared = figures
    assert [title for title in titles(figure) if title] == list(BASE)
    assert {"logic: sustained", "math: diminish"} <= set(titles(compared))
    check_layout(compared)
    curve = figure.axes[0].lines[0]
    assert list(curve.get_xdata()) == [1, 2, 4, 8, 16, 32, 64]
    assert curve.get_ydata()[0] == pytest.approx(0.75 * 20 / 64)
    bars = figure.axes[4].patches  # math, below its curve: two evaluations x ten bins
    assert [bar.get_height() for bar in bars[:10]] == [0.25, 0, 0, 0.75, 0, 0, 0, 0, 0, 0]
    assert [bar.get_height() for bar in bars[10:]] == [0.25, 0, 0, 0, 0, 0, 0, 0, 0, 0.75]
    check_layout(figure)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, arguments)])
        plot.main()

    folder = make_run(tmp_path / "run", 4)
    run(folder)
    assert (folder / "curves.png").stat().st_size > 20_000
    base, trained = write_made_up(tmp_path, base=BASE, trained=TRAINED)
    run(base / "eval.json", trained, "--out", tmp_path / "pass_at_k.png")
    assert (tmp_path / "pass_at_k.png").stat().st_size > 20_000
    with pytest.raises(SystemExit, match=r"There is no .*metrics\.jsonl"):
        run(tmp_path)
    with pytest.raises(SystemExit, match="There is no"):
        run(folder, base / "eval.json")
    with pytest.raises(SystemExit, match=r"curves\.png is damaged, or of another kind"):
        run(folder / "curves.png")
    (tmp_path / "compare.json").write_text('{"tasks": {}}')
    with pytest.raises(SystemExit, match="no JSON object with name, tasks, problems"):
        run(tmp_path / "compare.json")
    (folder / "metrics.jsonl").write_bytes(b'\xff[]\n[1]\n{"loss": 1}\n')
    with pytest.raises(SystemExit, match="has no step yet"):
        run(folder)
    with pytest.raises(SystemExit):
        run(folder, "--out", tmp_path)
    assert "--out takes a .png, .pdf or .svg file" in capsys.readouterr().err
