"""The lab: arms fit the scripts, verdicts follow their rule, an experiment runs, is killed, and
goes on."""

import dataclasses
import json
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT, write_jsonl
from scipy import stats

from bench.common import script_config
from lab import __main__ as lab
from lab import arms as run
from lab import figure
from lab import pages as page
from lab import verdicts as statistics
from lab.papers import EXPERIMENTS, Claim
from tiny import world
from tools.panels import panel_of


def plan_all(experiment, folder, seeds, steps):
    """The runs of an experiment whose arms all get so many seeds."""
    return run.plan(experiment, folder, dict.fromkeys(experiment.arms, seeds), steps)


# --- the tables of papers.py ---


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_arms_take_flags_that_their_scripts_have_and_differ_from_each_other(
    name, monkeypatch, tmp_path
):
    experiment, configs = EXPERIMENTS[name], []
    monkeypatch.setattr(sys, "argv", [])  # script_config sets it
    for planned in plan_all(experiment, tmp_path, 1, experiment.steps):
        _, script, *flags = map(str, planned.commands[0])
        if script == "-m":
            script, *flags = flags
        config = dataclasses.asdict(script_config(script, flags))
        assert config["tiny"] and config.get("token_budget", 0) == experiment.budget
        assert config["steps"] == experiment.steps or experiment.budget
        assert Path(config.pop("out")) == planned.folder
        configs.append({"script": script} | config)
    assert len({str(config) for config in configs}) == len(experiment.arms)
    if name == "complexity":  # whole systems, which share the tokens that they may sample
        rows = [json.loads(line) for line in (ROOT / configs[0]["data"]).open()]
        first = world.problems("train", "mixed")[: len(rows)]
        assert rows == [{key: row[key] for key in ("problem", "answer")} for row in first]
        return
    shared = ("prompts_per_step", "samples_per_prompt", "updates_per_step", "learning_rate")
    shared += ("weight_decay", "steps", "seed")
    assert len({tuple(config[key] for key in shared) for config in configs}) == 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_claims_name_arms_of_their_experiment_and_panels_are_known(name):
    experiment = EXPERIMENTS[name]
    for claim in experiment.claims:
        more, less = map(set, claim.sides)
        assert more and more | less <= experiment.arms.keys(), claim
        assert not more & less, claim
    assert all(panel_of(metric).unit for metric in experiment.panels)
    section = (ROOT / "lab" / "README.md").read_text().partition(f"\n## {name}\n")[2]
    parts = section.partition("\n## ")[0].strip().split("\n\n")
    begin = [part.partition(" ")[0] for part in parts if part.startswith(("**", "<!--"))]
    assert begin == ["**The", "**Here.**", "<!--", "**Try"] and f"<!-- {name} -->" in section
    assert re.search(r"`python (\w+\.py|-m\s+lab\.table1)\s.*?`", parts[-1], re.DOTALL)


def test_runs_come_seed_by_seed_and_share_their_seed(tmp_path):
    runs = plan_all(EXPERIMENTS["aggregation"], tmp_path, 3, 64)
    assert [planned.seed for planned in runs] == [0] * 8 + [1] * 8 + [2] * 8
    assert len({planned.folder for planned in runs}) == 24
    for planned in runs:
        assert planned.commands[0][planned.commands[0].index("--seed") + 1] == planned.seed
    few = dict.fromkeys(EXPERIMENTS["aggregation"].arms, 2)
    runs = run.plan(EXPERIMENTS["aggregation"], tmp_path, few | {"base, hard: token": 4}, steps=64)
    assert [planned.seed for planned in runs] == [0] * 8 + [1] * 8 + [2, 3]
    assert {planned.arm for planned in runs[16:]} == {"base, hard: token"}


def test_the_boundary_is_measured_before_midway_and_after(tmp_path):
    (planned,) = plan_all(EXPERIMENTS["prorl_boundary"], tmp_path, 1, 120)
    train, *measured = planned.commands
    assert train[1] == "prorl.py"
    names = [command[2].rpartition("/")[2] for command in measured]
    assert names == ["tiny:compose", "step_000060", "step_000120"]


# --- from measures to verdicts ---


def measured(claim, *values, level=1.0):
    """A claim about arms a and b: b's measures are all `level`, and a's so much higher."""
    arms = {"a": {}, "b": {}}
    for seed, value in enumerate(values):
        arms["a"][seed] = dict.fromkeys(("m", "eval_accuracy"), level + value)
        arms["b"][seed] = dict.fromkeys(("m", "eval_accuracy"), level)
    return statistics.measure_claim(claim, arms)


A_ABOVE, B_ABOVE = Claim("eval_accuracy: a > b"), Claim("eval_accuracy: b > a")
CLEAR = 0.10, 0.12, 0.09, 0.11, 0.10


@pytest.mark.parametrize(
    "claim, values, expected",
    [
        (A_ABOVE, CLEAR, "as in the paper"), (B_ABOVE, CLEAR, "opposite"),
        (Claim("eval_accuracy: a > 0"), CLEAR, "as in the paper"),
        (A_ABOVE, (0.30, -0.10, 0.25, -0.05, 0.10), "undecided"),
        # Significant and worth a direction only beyond three points.
        (A_ABOVE, (0.020, 0.045, 0.015, 0.030, 0.034), "undecided"),
        (A_ABOVE, (0.01, -0.01, 0.005, -0.004, 0.001), "no difference"),
        (A_ABOVE, (0.0, 0.0, 0.0), "no difference"),
        # Two seeds agree roughly, but t with one degree of freedom is wide.
        (A_ABOVE, (0.10, 0.20), "undecided"),
        # Exact agreement has no t interval: a sign test judges it, and takes six seeds.
        (A_ABOVE, (0.25,) * 6, "as in the paper"), (A_ABOVE, (0.25,) * 5, "undecided"),
        # A claim of ours; and claims of which nothing was run or measured.
        (dataclasses.replace(A_ABOVE, extends=True), CLEAR, "more"),
        (dataclasses.replace(B_ABOVE, extends=True), CLEAR, "less"),
        (Claim("eval_accuracy: a > c"), CLEAR, "not run"),
        (Claim("unmeasured: a > b"), CLEAR, "not run"),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_interval_sign_and_size(claim, values, expected):
    """On one claim alone, so that no other one corrects its p value."""
    assert statistics.judge([measured(claim, *values)]) == [expected]


def test_the_smallest_effect_depends_on_the_metric():
    assert statistics.smallest_effect("eval_accuracy", 0.9) == 0.03
    assert statistics.smallest_effect("rise@128 hard", 0.9) == 0.03
    assert statistics.smallest_effect("entropy", -0.5) == pytest.approx(0.05)
    # 0.05 is worth talking about for an accuracy, and is not for a length of 40.
    judged = measured(Claim("m: a > b"), 0.05, 0.06, 0.04, 0.05, 0.055, level=40.0)
    assert statistics.judge([judged]) == ["no difference"]


def test_the_interval_has_the_pilot_s_variance_and_degrees_of_freedom():
    pilot, more = [0.01, 0.02, 0.03, 0.04, 0.05], [0.03] * 40
    judged = measured(A_ABOVE, *pilot, *more)
    needed = -(-((2 * 2.776445 * 0.015811 / 0.03) ** 2) // 1)  # t of 4 degrees of freedom
    assert judged.seeds_needed == needed == 9
    assert judged.differences == pytest.approx([*pilot, *more[:4]])  # and no seed beyond
    half = 2.776445 * 0.015811 / 9**0.5
    assert (judged.low, judged.high) == pytest.approx((0.03 - half, 0.03 + half), abs=1e-5)
    assert judged.p == pytest.approx(2 * stats.t.sf(0.03 * 3 / 0.015811, 4), rel=1e-3)


@pytest.mark.parametrize("most", [40, 10**6])
@pytest.mark.parametrize("spread", [0.01, 0.03, 0.06])
def test_the_intervals_cover_what_they_say_and_a_null_gets_no_direction(spread, most):
    """The page's "95 %" by simulation of the whole procedure, with a limit on seeds and without."""
    worth, pilot = 0.03, statistics.PILOT
    draw = np.random.default_rng(0).normal
    for effect in (0.0, worth / 2):
        first = draw(effect, spread, (20_000, pilot))
        spreads = first.std(axis=1, ddof=1)
        count = np.minimum(statistics.seeds_needed(spreads, worth), most)
        rest = draw(effect, spread / np.sqrt(np.maximum(count - pilot, 1)))  # the others' mean
        mean = (first.sum(axis=1) + (count - pilot) * rest) / count
        half = statistics.half_width(spreads, count)
        assert np.mean(abs(mean - effect) <= half) >= 0.945
        # A direction needs more than this: it also survives the correction for many claims. Of
        # half the smallest effect, the claims that have their seeds are not called one either.
        directed = (abs(mean) > half) & (abs(mean) >= worth)
        assert np.mean(directed) <= 0.05 or (effect and most == 40)


def test_seeds_are_paired_and_sides_of_several_arms_averaged():
    noise = {0: 0.1, 1: 5.0, 2: -3.0}
    arms = {
        name: {seed: {"m": own + gain} for seed, own in noise.items()}
        for name, gain in {"a": 1.0, "b": 0.5, "c": 0.2, "d": 0.1}.items()
    }
    arms["a"][0]["m"] += 0.02
    arms["a"][3] = {"m": 9.0}  # a seed that the others do not have
    judged = statistics.measure_claim(Claim("m: a & d > b & c"), arms)
    assert judged.differences == pytest.approx([0.21, 0.2, 0.2])  # the seeds' own noise is gone


def test_false_discoveries_are_controlled_over_the_claims_that_count():
    # A p value of 0.03 alone is a discovery; among nineteen claims with nothing in them it is none.
    one = measured(A_ABOVE, 0.10, 0.02, 0.12, 0.06, 0.15)
    nothing = measured(A_ABOVE, 0.3, -0.3, 0.2, -0.2, 0.01)
    assert 0.005 < one.p < 0.05
    assert statistics.judge([one]) == ["as in the paper"]
    assert statistics.judge([one] + [nothing] * 19) == ["undecided"] * 20
    apart = dataclasses.replace(A_ABOVE, apart="by construction")
    given = measured(apart, 0.3, -0.3, 0.2, -0.2, 0.01)
    assert statistics.judge([one] + [given] * 19) == ["as in the paper"] + ["not counted"] * 19


def test_each_arm_gets_the_seeds_that_its_claims_need():
    have = dict.fromkeys("abc", 5)
    one, two = Claim("eval_accuracy: a > b"), Claim("m: a > 0")
    noisy = measured(one, 0.08, -0.06, 0.09, -0.07, 0.01)
    calm = measured(two, 0.010, 0.012, 0.009, 0.011, 0.010)
    need = noisy.seeds_needed
    assert calm.seeds_needed == 5 < 100 < need
    large = measured(one, 0.58, 0.44, 0.59, 0.43, 0.51)
    assert large.seeds_needed == need  # the effect seen has no say
    assert statistics.more_seeds([calm], have, most=40) == have
    assert statistics.more_seeds([noisy, calm], have, 1000) == {"a": need, "b": need, "c": 5}
    assert statistics.more_seeds([noisy], have, most=40) == {"a": 40, "b": 40, "c": 5}
    assert statistics.more_seeds([noisy], have, most=0) == have


def test_measures_are_means_over_the_last_quarter(tmp_path):
    rows = [{"step": 0, "eval_accuracy": 0.9}]
    rows += [{"step": s, "grad_norm": float(s), "entropy": float(s)} for s in range(1, 9)]
    rows[8]["eval_accuracy"] = 0.25
    write_jsonl(tmp_path / "metrics.jsonl", rows)
    result = run.measures(run.Run("a", 0, tmp_path, []), EXPERIMENTS["lite_ppo"])
    assert result["entropy"] == 7.5 and result["eval_accuracy"] == 0.25
    assert result["grad_growth"] == pytest.approx(1.609, abs=1e-3)  # log(7.5 / 1.5)


def test_equal_tokens_are_the_last_quarter_of_a_budget():
    accuracies = {1: 0.1, 2: 0.2, 3: 0.4, 4: 0.6, 5: 0.9}
    rows = [{"step": s, "tokens": 100, "eval_accuracy": a} for s, a in accuracies.items()]
    assert run.accuracy_at(rows, 400) == pytest.approx(0.6)
    assert run.accuracy_at(rows, 450) == pytest.approx(0.6)
    assert run.accuracy_at(rows, 2000) == pytest.approx(0.9)  # a run that samples less: its last
    assert run.accuracy_at(rows[:4], 800) == pytest.approx(0.6)


def test_an_endless_answer_repeats_itself_and_a_long_one_does_not(tmp_path):
    texts = ["8+1\n9\n" + "14\n" * 12, "8+6+5-5\n14+5-5\n19-5\n14\nwait\n4+6-2+6+5-5\n10-2"]
    answers = [{"text": text, "truncated": True} for text in (texts[0], texts[1], texts[1])]
    answers.append({"text": texts[0], "truncated": False})
    rows = [{"benchmark": "tiny/hard", "answers": answers}]
    path = write_jsonl(tmp_path / "generations.jsonl", rows)
    assert run.repeating(path, "tiny/hard") == pytest.approx(1 / 3)
    assert run.repeating(path, "tiny/easy") is None


def test_a_shift_counts_problems_whose_pass_at_1_rose_less_those_whose_fell():
    def point(*solved):
        return {"pass": {"1": 0.5, "128": 1.0}, "solved": solved}

    tasks = {"tiny/x": point(0.0, 0.5, 0.5, 0.1)}, {"tiny/x": point(0.5, 0.6, 0.5, 0.0)}
    seen = run.rises(dict(zip(("before", "after"), tasks, strict=True)))
    assert seen["shift@1 x"] == pytest.approx(0.25) and seen["rise@128 x"] == 0


def test_pass_at_k_is_kept_with_the_regime_that_evaluate_finds(tmp_path):
    experiment = EXPERIMENTS["prorl_boundary"]
    for point, right in (("before", 1), ("midway", 2), ("after", 4)):  # of 4 answers, always in 1
        (tmp_path / point).mkdir()
        seen = {"robust": {"1": [right / 4, 0, 1], "4": [1, 0, 1]}, "solved": [right / 4] * 9}
        rows = [
            {"task": task, "benchmark": task, "text": str(i), "n": 4, "robust": right}
            for task in experiment.tasks
            for i in range(9)
        ]
        value = {"name": point, "tasks": dict.fromkeys(experiment.tasks, seen), "problems": rows}
        (tmp_path / point / "eval.json").write_text(json.dumps(value))
    kept = run.pass_at_k(run.Run("ProRL", 0, tmp_path, []), experiment)
    assert kept.keys() == {"before", "midway", "after"}
    assert kept["midway"]["tiny/compose-8"] == {"pass": {"1": 0.5, "4": 1}, "solved": [0.5] * 9}
    assert {one["regime"] for one in kept["after"].values()} == {"diminish"}


# --- the command and the page ---


def test_without_a_name_it_lists_experiments_arms_and_times():
    listing = lab.listing(5, 2)
    assert all(f"{name}  (" in listing for name in EXPERIMENTS)
    assert "6 arms x 5 seeds, about" in listing and "group/none" in listing


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["clip_hihger"], "clip_higher"),
        (["aggregation", "--seeds", "1"], "--seeds"),
        (["aggregation", "--seeds", "6", "--most", "5"], "--most 5"),
    ],
)
def test_a_wrong_command_gets_one_sentence(arguments, word, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lab.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["lab", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=rf"^lab: [^\n]*{word}[^\n]*$"):
        lab.main()
    assert capsys.readouterr().out == "" and not (tmp_path / "out").exists()


def test_docs_papers_has_every_claim_of_the_deck_with_its_verdict():
    text = (ROOT / "docs" / "papers.md").read_text()
    judged = page.judge_all(page.read_results(ROOT / "lab"))
    for one in page.deck(judged):
        (row,) = [line for line in text.splitlines() if f"| {one.claim.deck} |" in line]
        assert row.rstrip(" |").endswith(one.verdict), (one.claim.deck, one.verdict)


def test_an_arm_has_one_style_in_all_facets_and_the_legend():
    arms = dict.fromkeys(("one: a", "one: b", "two: b", "two: c"), "")
    experiment = dataclasses.replace(EXPERIMENTS["aggregation"], arms=arms)
    curves = {"entropy": [[1, 0.5], [2, 0.4]], "resets": []}
    fig, cells = plt.subplots(1, 2)
    result = {"steps": 2, "runs": [{"arm": arm, "curves": curves} for arm in arms]}
    labels = figure.draw_curves(list(cells), experiment, result, ["entropy"], ["one", "two"])
    colours = [[line.get_color() for line in ax.lines] for ax in cells]
    plt.close(fig)
    style = dict(zip(labels, figure.plot.COLOURS, strict=False))
    assert colours == [[style["a"], style["b"]], [style["b"], style["c"]]]


def test_the_page_in_the_repository_is_what_its_results_say():
    results = page.read_results(ROOT / "lab")
    written = (ROOT / "lab" / "README.md").read_text()
    assert written == page.page(written, results, page.judge_all(results))
    assert len(written.split()) <= 3500
    for name, result in results.items():
        assert result["steps"] == EXPERIMENTS[name].steps
        arms = {(one["arm"], one["seed"]) for one in result["runs"]}
        planned = plan_all(EXPERIMENTS[name], run.ROOT / "lab" / "runs" / name, 50, result["steps"])
        planned = {(one.arm, one.seed): one for one in planned}
        assert all(
            run.is_record_of(one, planned[one["arm"], one["seed"]]) for one in result["runs"]
        )
        counts = Counter(arm for arm, _ in arms)
        # Each arm begins with seed 0, so that arms of unequal numbers are paired.
        assert arms == {(arm, seed) for arm, count in counts.items() for seed in range(count)}


# --- an experiment, end to end ---


def small(folder):
    """Two arms of lite_ppo on a handful of problems, with three steps."""
    rows = [{"problem": f"{n}+2=?", "answer": str(n + 2)} for n in range(1, 5)]
    problems = shlex.quote(str(write_jsonl(folder / "problems.jsonl", rows)))
    cheap = f"--data {problems} --eval_data {problems} --prompts_per_step 2"
    cheap += " --samples_per_prompt 4 --updates_per_step 1"
    whole = EXPERIMENTS["lite_ppo"]
    arms = {name: f"{whole.arms[name]} {cheap}" for name in ("easy: Lite PPO", "easy: GRPO")}
    return dataclasses.replace(whole, arms=arms, claims=(whole.claims[0],), steps=3)


# The lab with that experiment alone. Its runs are forks, as all scripts of the tests.
LAB = """
import json, subprocess, sys
from pathlib import Path
import forge, test_lab
import lab.__main__ as lab

subprocess.Popen, out = forge.Popen, Path(sys.argv[1])
small = test_lab.small(out)
lab.EXPERIMENTS.clear()
lab.EXPERIMENTS["small"] = small
lab.run_experiment("small", out, *json.loads(sys.argv[2]), steps=None)
(out / "README.md").write_text("Before.\\n<!-- small -->\\nold\\n<!-- end -->\\nAfter.\\n")
lab.pages.write_page(out)
"""


def test_an_experiment_runs_is_killed_and_goes_on(start, tmp_path):
    script = tmp_path / "small.py"
    script.write_text(LAB)

    def lab(seeds, most, jobs):
        return start(script, tmp_path, json.dumps([seeds, most, jobs]))

    # Killed without warning as soon as its first run is done, with the second under way.
    killed = lab(2, 0, 1)
    second = tmp_path / "runs" / "small" / "easy-GRPO" / "seed0" / "config.json"
    killed.wait_for(second.exists)
    killed.kill()
    first = tmp_path / "runs" / "small" / "easy-Lite-PPO" / "seed0" / "metrics.jsonl"
    assert not (tmp_path / "results" / "small").exists()
    kept = first.stat().st_mtime_ns

    assert "small: 100%" in lab(2, 0, 2).output()
    first_result = json.loads((tmp_path / "results" / "small" / "results.json").read_text())
    needed = page.measure(small(tmp_path), first_result)[0].seeds_needed
    # Two seeds say that it takes more; three are allowed.
    said = lab(2, 3, 2).output()
    assert needed > 2 and "seeds: easy: Lite PPO 3, easy: GRPO 3\n" in said
    assert first.stat().st_mtime_ns == kept  # what is done is not done again

    result = json.loads((tmp_path / "results" / "small" / "results.json").read_text())
    assert result["steps"] == 3
    arms = [(arm, seed) for seed in range(3) for arm in ("easy: Lite PPO", "easy: GRPO")]
    assert [(r["arm"], r["seed"]) for r in result["runs"]] == arms
    for record in result["runs"]:
        (command,) = record["commands"]
        assert command.startswith("liteppo.py --tiny") and f"--seed {record['seed']}" in command
        assert ("--aggregation sequence" in command) == (record["arm"] == "easy: GRPO")
        assert 0 <= record["measures"]["eval_accuracy"] <= 1 and record["measures"]["entropy"] > 0
        assert [step for step, _ in record["curves"]["entropy"]] == [1, 2, 3]
    for folder in (tmp_path / "runs" / "small").glob("*/seed?"):
        rows = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == [0, 1, 2, 3]  # none is written twice
    written = (tmp_path / "README.md").read_text()
    assert "results/small/figure.png" in written and "old" not in written
    assert written.startswith("Before.\n<!-- small") and written.endswith("end -->\nAfter.\n")
    assert any(f"**{verdict}**" in written for verdict in statistics.VERDICTS)
    assert (tmp_path / "results" / "small" / "figure.png").stat().st_size > 10_000


def test_a_failing_run_is_named_with_the_script_s_words(tmp_path):
    broken = dataclasses.replace(small(tmp_path), arms={"a": "-m lab"})
    (planned, *_) = plan_all(broken, tmp_path, 2, 3)
    with pytest.raises(ValueError, match=r"did not finish.*unrecognized arguments"):
        run.carry_out_all("broken", [planned], jobs=1)
    assert run.finished(planned) == {}
