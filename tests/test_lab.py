"""lab.py: the table fits the scripts, the verdict follows its rule, an experiment runs, is killed, and goes on."""

import contextlib
import dataclasses
import importlib
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import experiments as lab
from trainer import run

ROOT = Path(__file__).resolve().parents[1]


def lab_in(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lab", *arguments], cwd=ROOT, capture_output=True, text=True
    )


# --- the table ---


@pytest.mark.parametrize("name", lab.EXPERIMENTS)
def test_arms_take_flags_that_their_scripts_have_and_differ_from_each_other(
    name, monkeypatch, tmp_path
):
    experiment, configs = lab.EXPERIMENTS[name], []
    for planned in lab.plan(experiment, tmp_path, 1, experiment.steps):
        script, *flags = planned.commands[0]
        module = importlib.import_module(script.removesuffix(".py"))
        monkeypatch.setattr(sys, "argv", [script, *flags])
        config = dataclasses.asdict(run.parse(module.Config, module.TINY, ""))
        assert (
            config["tiny"]
            and config["steps"] == experiment.steps
            and Path(config.pop("out")) == planned.folder
        )
        configs.append({"script": script} | config)
    assert len({str(config) for config in configs}) == len(experiment.commands())
    shared = (
        "prompts_per_step",
        "samples_per_prompt",
        "updates_per_step",
        "learning_rate",
        "weight_decay",
        "steps",
        "seed",
    )
    assert len({tuple(config[key] for key in shared) for config in configs}) == 1
    assert all(
        config["updates_per_step"] >= 8 for config in configs if config["script"] == "liteppo.py"
    )


@pytest.mark.parametrize("name", lab.EXPERIMENTS)
def test_claims_name_arms_of_their_experiment_and_panels_are_known(name):
    experiment = lab.EXPERIMENTS[name]
    for claim in experiment.claims:
        _, sign, left, right = lab.parse(claim)
        assert sign in (1, -1) and left and {*left, *right} <= experiment.commands().keys(), claim
        assert not {*left} & {*right}, claim
    assert set(experiment.panels) <= lab.PANELS.keys()
    assert lab.minutes(experiment, seeds=5, jobs=2) <= 40


def test_runs_come_seed_by_seed_and_share_their_seed(tmp_path):
    runs = lab.plan(lab.EXPERIMENTS["aggregation"], tmp_path, seeds=3, steps=64)
    assert [planned.seed for planned in runs] == [0] * 8 + [1] * 8 + [2] * 8
    assert len({planned.folder for planned in runs}) == 24
    for planned in runs:
        assert planned.commands[0][planned.commands[0].index("--seed") + 1] == str(planned.seed)


def test_the_boundary_is_measured_before_midway_and_after(tmp_path):
    (planned, _) = lab.plan(lab.EXPERIMENTS["prorl_boundary"], tmp_path, seeds=2, steps=120)
    train, before, midway, after, compare = planned.commands
    assert train[0] == "prorl.py" and compare[1] == "--compare"
    assert [c[1].rpartition("/")[2] for c in (before, midway, after)] == [
        "tiny:aligned",
        "step_000060",
        "step_000120",
    ]
    assert [Path(folder).name for folder in compare[2:5]] == [
        "before",
        "after",
        "midway",
    ]  # BASE TRAINED MIDDLE


# --- the verdict ---


def seen(*values):
    """Figures of arms a and b, b's all zero."""
    return {
        "a": {s: {"m": v} for s, v in enumerate(values)},
        "b": {s: {"m": 0.0} for s in range(len(values))},
    }


@pytest.mark.parametrize(
    "claim, values, expected",
    [
        ("m | a > b", (0.10, 0.12, 0.09, 0.11, 0.10), "as in the paper"),
        ("m | a < b", (0.10, 0.12, 0.09, 0.11, 0.10), "opposite"),
        ("m | a > b", (-0.10, -0.12, -0.09, -0.11, -0.10), "opposite"),
        ("m | b > a", (-0.10, -0.12, -0.09, -0.11, -0.10), "as in the paper"),
        ("m | a > 0", (0.10, 0.12, 0.09, 0.11, 0.10), "as in the paper"),
        ("m | a > b", (0.30, -0.10, 0.25, -0.05, 0.10), "cannot tell"),
        ("m | a < b", (0.30, -0.10, 0.25, -0.05, 0.10), "cannot tell"),
        (
            "m | a > b",
            (0.25, 0.25, 0.25, 0.25, 0.25),
            "cannot tell",
        ),  # no spread: not a t interval's case
        (
            "m | a > b",
            (0.10, 0.20),
            "cannot tell",
        ),  # two seeds agree, but t with one degree of freedom is wide
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_predicted_sign(claim, values, expected):
    assert lab.judge(claim, seen(*values))["verdict"] == expected


def test_the_interval_is_student_s(tmp_path):
    mean, low, high = lab.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * (2.5 / 5) ** 0.5  # the quantile of 4 degrees of freedom; the variance is 2.5
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half), abs=1e-3)


def test_seeds_are_paired_and_sides_of_several_arms_averaged():
    figures = {arm: {s: {"m": noise + gain} for s, noise in enumerate((0.1, 5.0, -3.0))} for arm, gain in
               {"a": 1.0, "b": 0.5, "c": 0.2, "d": 0.1}.items()}  # fmt: skip
    figures["a"][0]["m"] += 0.02
    judged = lab.judge("m | a & d > b & c", figures)
    assert judged["differences"] == pytest.approx([0.21, 0.2, 0.2])  # the seeds' own noise is gone
    assert judged["verdict"] == "as in the paper"


def test_figures_are_means_over_the_last_quarter(tmp_path):
    rows = [{"step": 0, "eval_accuracy": 0.9}]
    rows += [
        {"step": s, "accuracy": 0.5, "grad_norm": float(s), "entropy": float(s)}
        for s in range(1, 9)
    ]
    rows[8]["eval_accuracy"] = 0.25
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = lab.figures(lab.Run("a", 0, tmp_path, [], tmp_path), steps=8)
    assert result["entropy"] == 7.5 and result["eval_accuracy"] == 0.25
    assert result["grad_growth"] == pytest.approx(1.609, abs=1e-3)  # log(7.5 / 1.5)


# --- the command ---


def test_without_a_name_it_lists_claims_arms_and_times():
    done = lab_in()
    assert done.returncode == 0, done.stderr
    for name, experiment in lab.EXPERIMENTS.items():
        assert f"{name}  (" in done.stdout and experiment.paper.split(":")[0] in done.stdout
    assert "20 arms x 5 seeds, about" in done.stdout and "group/none" in done.stdout


@pytest.mark.parametrize(
    "arguments, word",
    [(["clip_hihger"], "clip_higher"), (["aggregation", "--seeds", "1"], "--seeds")],
)
def test_a_wrong_command_gets_one_sentence(arguments, word, tmp_path):
    done = lab_in(*arguments, "--out", tmp_path)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.startswith("lab: ") and done.stderr.count("\n") == 1 and word in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_gallery_in_the_repository_is_what_its_results_say():
    assert (ROOT / "lab" / "README.md").read_text() == lab.gallery(ROOT / "lab")
    for path in (ROOT / "lab" / "results").glob("*/results.json"):
        result = json.loads(path.read_text())
        assert result["seeds"] >= 5 and result["steps"] == lab.EXPERIMENTS[path.parent.name].steps
        assert [c["verdict"] for c in result["claims"]] == [
            lab.verdict(c["sign"], c["low"], c["high"]) for c in result["claims"]
        ]


# --- an experiment, end to end ---


def small(folder):
    """Two arms of lite_ppo on a handful of problems, as an experiment of its own with three steps."""
    problems = folder / "problems.jsonl"
    problems.write_text(
        "".join(
            json.dumps({"problem": f"{n}+2=?", "answer": str(n + 2)}) + "\n" for n in range(1, 5)
        )
    )
    cheap = f"--eval_data {shlex.quote(str(problems))} --prompts_per_step 2 --samples_per_prompt 4 --updates_per_step 1"
    whole = lab.EXPERIMENTS["lite_ppo"]
    arms = {
        "easy": {label: f"{whole.arms['easy'][label]} {cheap}" for label in ("Lite PPO", "GRPO")}
    }
    return dataclasses.replace(whole, arms=arms, claims=(whole.claims[0],), steps=3)


def test_an_experiment_runs_is_killed_and_goes_on(tmp_path, capfd):
    # Killed without warning as soon as its first run is done, with the second under way.
    code = "import sys, pathlib, test_lab; from lab import experiments as lab; out = pathlib.Path(sys.argv[1])\n"
    code += "lab.EXPERIMENTS['small'] = test_lab.small(out); lab.run_experiment('small', out, 2, 1, None)"
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, env=lab.ENVIRONMENT | paths, stderr=subprocess.DEVNULL)
    second = tmp_path / "runs" / "small" / "easy-GRPO" / "seed0" / "config.json"
    while not second.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"ended by itself with {process.wait(timeout=0.1)}")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    first = tmp_path / "runs" / "small" / "easy-Lite-PPO" / "seed0" / "metrics.jsonl"
    assert not (tmp_path / "results" / "small").exists()
    kept = first.stat().st_mtime_ns

    experiments, lab.EXPERIMENTS = lab.EXPERIMENTS, {"small": small(tmp_path)}
    try:
        lab.run_experiment("small", tmp_path, seeds=2, jobs=2, steps=None)
        assert "small: 100%" in capfd.readouterr().err
        lab.run_experiment("small", tmp_path, seeds=2, jobs=2, steps=None)  # nothing left to do
        page = lab.gallery(tmp_path)
    finally:
        lab.EXPERIMENTS = experiments
    assert first.stat().st_mtime_ns == kept

    result = json.loads((tmp_path / "results" / "small" / "results.json").read_text())
    assert (result["seeds"], result["steps"]) == (2, 3) and result["rule"] == lab.RULE
    assert [(r["arm"], r["seed"]) for r in result["runs"]] == [
        ("easy: Lite PPO", 0), ("easy: GRPO", 0), ("easy: Lite PPO", 1), ("easy: GRPO", 1)
    ]  # fmt: skip
    for record in result["runs"]:
        (command,) = record["commands"]
        assert command.startswith("liteppo.py --tiny") and f"--seed {record['seed']}" in command
        assert ("--aggregation sequence" in command) == (record["arm"] == "easy: GRPO")
        assert 0 <= record["figures"]["eval_accuracy"] <= 1 and record["figures"]["entropy"] > 0
    for folder in (tmp_path / "runs" / "small").glob("*/seed?"):  # whole, and no step written twice
        assert [
            json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()
        ] == [
            0,
            1,
            2,
            3,
        ]
    (judged,) = result["claims"]
    assert len(judged["differences"]) == 2 and judged["verdict"] in (
        "as in the paper",
        "opposite",
        "cannot tell",
    )
    assert (tmp_path / "results" / "small" / "figure.png").stat().st_size > 10_000
    assert judged["verdict"] in page and "results/small/figure.png" in page


def test_a_failing_run_is_named_with_the_script_s_words(tmp_path):
    broken = dataclasses.replace(
        small(tmp_path), arms={"": {"a": "liteppo.py --model tiny:nowhere"}}
    )
    (planned, *_) = lab.plan(broken, tmp_path, seeds=2, steps=3)
    with pytest.raises(ValueError, match=r"did not finish.*no tiny model .nowhere."):
        lab.carry_out_all("broken", [planned], jobs=1)
    assert lab.finished(planned) == {}
