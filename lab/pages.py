"""lab/README.md, from papers.py and the results.json of every experiment."""

import json
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from lab import figure
from lab.arms import rises
from lab.papers import EXPERIMENTS, Experiment
from lab.verdicts import NOT_COUNTED, NOT_RUN, RULE, VERDICTS, WORDS, Judged, judge, measure_claim
from tools.evaluation.statistics import margin, regime

OPENING = """# The papers' findings, tried in the embedded worlds

Three papers say what matters in reinforcement learning of language models. Here their claims are
tested in [small worlds](../tiny/README.md): chains of arithmetic, compositions of opaque functions,
and the same with answers that fork at every line. Worlds this small can show that a mechanism
exists; they cannot show that it matters at scale.

## In a hurry

What the deck claims ([docs/papers.md](../docs/papers.md) maps all of it), and what came of it here.
The figure has the same claims, each difference in units of the smallest effect worth talking about.
"Not counted" could not have failed, and "not run" says that no time was left."""

AFTER = """An experiment compares arms, each one a command line of a recipe, over paired seeds: the
same problems and the same seeds of sampling. What all arms share was fixed before any two of them
were compared, and no arm was tuned. Arms are compared at equal steps, with the same number of
answers trained on a step, unless the claim says otherwise.

    python -m lab                     # the experiments, their arms and how long they take
    python -m lab prorl_boundary      # run what is missing of one, and see what it says
    python -m lab page                # write this page again"""

BEFORE = """The runs of before 2026-11-28 stopped by an older rule, in which the effect seen had a
say where it was large. They are judged by this one, with the seeds that there are: "9 of 12" in a
table has three seeds fewer than its claim needs. Seeds are of training and sampling. The held-out
problems are the same in every seed, so that an interval does not cover the choice of problems."""

MOST_ROWS = 15  # of a table; more claims are read in the figure


def read_results(out: Path) -> dict[str, dict]:
    """{experiment: its results.json}, of those that have been run."""
    paths = {name: out / "results" / name / "results.json" for name in EXPERIMENTS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def judge_all(results: dict[str, dict]) -> dict[str, list[Judged]]:
    """{experiment: its claims with their verdicts}. All claims are judged together."""
    nothing = {"runs": []}
    measured = {
        name: measure(experiment, results.get(name, nothing))
        for name, experiment in EXPERIMENTS.items()
    }
    verdicts = iter(judge([one for claims in measured.values() for one in claims]))
    return {
        name: [replace(one, verdict=next(verdicts)) for one in claims]
        for name, claims in measured.items()
    }


def measure(experiment: Experiment, result: dict) -> list[Judged]:
    """The claims of an experiment with their differences and no verdict yet."""
    return [measure_claim(claim, by_arm(result)) for claim in experiment.claims]


def by_arm(result: dict) -> dict[str, dict[int, dict]]:
    """{arm: {seed: measures}}"""
    seen: dict[str, dict[int, dict]] = {}
    for run in result["runs"]:
        measures = run["measures"] | rises(run["pass_at_k"])
        seen.setdefault(run["arm"], {})[run["seed"]] = measures
    return seen


def write_page(out: Path) -> None:
    """Write README.md and every figure anew."""
    results = read_results(out)
    judged = judge_all(results)
    for name, result in results.items():
        path = out / "results" / name / "figure.png"
        figure.draw(EXPERIMENTS[name], result, judged[name], path)
    figure.draw_deck(deck(judged), out / "results" / "deck.png")
    (out / "README.md").write_text(page(results, judged))


def deck(judged: dict[str, list[Judged]]) -> list[Judged]:
    """The claims that are the deck's own sentences."""
    return [one for claims in judged.values() for one in claims if one.claim.deck]


def page(results: dict[str, dict], judged: dict[str, list[Judged]]) -> str:
    parts = [
        OPENING,
        deck_table(judged),
        "![the deck's claims](results/deck.png)",
        summary(judged),
        AFTER,
        f"## The rule\n\n{RULE}\n\n{BEFORE}",
    ]
    for name, experiment in EXPERIMENTS.items():
        parts += [f"## {name}", fill(f"**The paper.** {experiment.paper}")]
        if name in results:
            parts += findings(name, experiment, results[name], judged[name])
        else:
            parts.append(f"**Not run.** {experiment.found}")
        parts.append(fill(f"**Try it.** {experiment.try_it}"))
    return "\n\n".join(parts) + "\n"


def fill(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def deck_table(judged: dict[str, list[Judged]]) -> str:
    lines = ["|the deck|here|experiment|", "|---|---|---|"]
    for name, claims in judged.items():
        for one in claims:
            if one.claim.deck:
                lines.append(f"|{one.claim.deck}|{one.verdict}|[{name}](#{name})|")
    return "\n".join(lines)


def summary(judged: dict[str, list[Judged]]) -> str:
    """How many claims got which verdict."""
    claims = [one for ones in judged.values() for one in ones]
    seen = {extends: Counter() for extends in WORDS}
    for one in claims:
        seen[one.claim.extends][one.verdict] += 1
    of_papers, ours = (
        ", ".join(f"{count} {word}" for word in VERDICTS if (count := counts[word]))
        for counts in seen.values()
    )
    together = seen[False] + seen[True]
    return fill(
        f"Of the claims that papers make: {of_papers}. Of those that extend them: {ours}. Not "
        f"counted: {together[NOT_COUNTED]}. Not run: {together[NOT_RUN]}; `python -m lab NAME` "
        f"runs what is missing."
    )


def findings(name: str, experiment: Experiment, result: dict, claims: list[Judged]) -> list[str]:
    dates = sorted({run["date"] for run in result["runs"]})
    when = f"{figure.seed_counts(result)} seeds, {result['steps']} steps, {' and '.join(dates)}"
    parts = [
        fill(f"**Here** ({when}). {experiment.found}"),
        f"![{name}](results/{name}/figure.png)",
    ]
    if len(claims) <= MOST_ROWS:
        parts.append(claim_table(claims))
    if experiment.tasks:
        parts.append(boundary_table(experiment, result))
    return parts


def claim_table(claims: list[Judged]) -> str:
    lines = ["|claim|difference|verdict|seeds|", "|---|---|---|---:|"]
    for one in claims:
        verdict = f"**{one.verdict}**"
        if one.verdict == NOT_COUNTED:
            verdict += f": {one.claim.apart}"
        if not one.differences:
            lines.append(f"|{one.claim}||{verdict}||")
            continue
        seeds = f"{len(one.differences)} of {one.seeds_needed}"
        lines.append(f"|{one.claim}|{one}|{verdict}|{seeds}|")
    return "\n".join(lines)


def boundary_table(experiment: Experiment, result: dict) -> str:
    """pass@128 before and after, and the regimes seed by seed, of each task."""
    lines = [
        "|task|pass@128 before|after|regime, seed by seed (`evaluate.py --help`)|",
        "|---|---:|---:|---|",
    ]
    for task in experiment.tasks:
        points = [run["pass_at_k"] for run in result["runs"]]
        regimes = Counter(regime_of(one, task) for one in points).most_common()
        words = ", ".join(f"{count} {word}" for word, count in regimes)
        ends = [
            f"{fmean(one[point][task]['pass']['128'] for one in points):.3f}"
            for point in ("before", "after")
        ]
        lines.append(f"|{task.removeprefix('tiny/')}|{'|'.join(ends)}|{words}|")
    return "\n".join(lines)


def regime_of(points: dict[str, dict], task: str) -> str:
    """The regime of one task in one seed. points: the value of arms.pass_at_k."""
    before, middle, after = (points[name][task] for name in ("before", "midway", "after"))
    pass_1, pass_max = ((before["pass"][k], after["pass"][k]) for k in ("1", "128"))
    pairs = list(zip(before["solved"], after["solved"], strict=True))
    margins = (
        margin([new - old for old, new in pairs]),
        margin([(new > 0) - (old > 0) for old, new in pairs]),
    )
    rise = pass_max[1] - pass_max[0]
    reached = (middle["pass"]["128"] - pass_max[0]) / rise if rise > 0 else None
    return regime(pass_1, pass_max, margins, reached)
