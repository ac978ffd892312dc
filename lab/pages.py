"""The measured parts of lab/README.md, from the results.json of every experiment."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from lab import figure
from lab.arms import rises
from lab.papers import EXPERIMENTS, Experiment
from lab.verdicts import NOT_COUNTED, NOT_RUN, VERDICTS, Judged, judge, measure_claim

MOST_ROWS = 15  # of a table; more claims are read in the figure


def read_results(out: Path) -> dict[str, dict]:
    """{experiment: its results.json}, of those that have been run."""
    paths = {name: out / "results" / name / "results.json" for name in EXPERIMENTS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def judge_all(results: dict[str, dict]) -> dict[str, list[Judged]]:
    """{experiment: its claims with their verdicts}. All claims are judged together."""
    measured = {
        name: measure(experiment, results.get(name, {"runs": []}))
        for name, experiment in EXPERIMENTS.items()
    }
    verdicts = iter(judge([one for claims in measured.values() for one in claims]))
    return {
        name: [replace(one, verdict=next(verdicts)) for one in claims]
        for name, claims in measured.items()
    }


def measure(experiment: Experiment, result: dict) -> list[Judged]:
    """The claims of an experiment with their differences and no verdict yet."""
    seen: dict[str, dict[int, dict]] = {}  # {arm: {seed: measures}}
    for run in result["runs"]:
        measures = run["measures"] | rises(run["pass_at_k"])
        seen.setdefault(run["arm"], {})[run["seed"]] = measures
    return [measure_claim(claim, seen) for claim in experiment.claims]


def write_page(out: Path) -> None:
    """Draw every figure anew, and write the measured parts of README.md between its prose.

    Such a part begins with a line <!-- NAME --> and ends with <!-- end -->. NAME is an experiment,
    or "deck" for the overview.
    """
    results = read_results(out)
    judged = judge_all(results)
    for name, result in results.items():
        path = out / "results" / name / "figure.png"
        figure.draw(EXPERIMENTS[name], result, judged[name], path)
    figure.draw_alone(deck(judged), out / "results" / "deck.png", deck=True)
    readme = out / "README.md"
    readme.write_text(page(readme.read_text(), results, judged))


def deck(judged: dict[str, list[Judged]]) -> list[Judged]:
    """The claims that are the deck's own sentences."""
    return [one for claims in judged.values() for one in claims if one.claim.deck]


def page(text: str, results: dict[str, dict], judged: dict[str, list[Judged]]) -> str:
    """The text of README.md with its measured parts anew."""
    parts = {"deck": ["![the deck's claims](results/deck.png)", summary(judged)]}
    for name, claims in judged.items():
        parts[name] = findings(name, results[name], claims) if name in results else ["Not run."]
    return re.sub(
        r"(<!-- (\w+) -->\n).*?<!-- end -->",
        lambda found: found[1] + "\n\n".join(parts[found[2]]) + "\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def summary(judged: dict[str, list[Judged]]) -> str:
    """How many claims got which verdict."""
    claims = [one for ones in judged.values() for one in ones]
    seen = Counter((one.claim.extends, one.verdict) for one in claims)
    of_papers, ours = (
        ", ".join(f"{seen[own, word]} {word}" for word in VERDICTS if seen[own, word])
        for own in (False, True)
    )
    total = Counter(one.verdict for one in claims)
    return (
        f"Of the claims that papers make: {of_papers}.\n"
        f"Of those that extend them: {ours}.\n"
        f"Not counted: {total[NOT_COUNTED]}. Not run: {total[NOT_RUN]}."
    )


def findings(name: str, result: dict, claims: list[Judged]) -> list[str]:
    """The measured parts of an experiment: when, the figure, and its tables."""
    dates = {run["date"] for run in result["runs"]}
    when = " to ".join(sorted({min(dates), max(dates)}))
    parts = [
        f"{figure.seed_counts(result)} seeds, {result['steps']} steps, {when}.",
        f"![{name}](results/{name}/figure.png)",
    ]
    if len(claims) <= MOST_ROWS:
        parts += [claim_table(claims), *left_out(claims)]
    if EXPERIMENTS[name].tasks:
        parts.append(boundary_table(EXPERIMENTS[name], result))
    return parts


def claim_table(claims: list[Judged]) -> str:
    """The claims that were run and count."""
    lines = ["|claim|difference|verdict|seeds|", "|---|---|---|---:|"]
    for one in claims:
        if one.verdict not in (NOT_COUNTED, NOT_RUN):
            seeds = f"{len(one.differences)}/{one.seeds_needed}"
            lines.append(f"|{one.claim.sentence}|{one}|**{one.verdict}**|{seeds}|")
    return "\n".join(lines)


def left_out(claims: list[Judged]) -> list[str]:
    """How many claims the table leaves out, and why; nothing if it has all of them."""
    reasons = Counter(one.claim.apart for one in claims if one.verdict == NOT_COUNTED)
    words = [f"{count} not counted ({why})" for why, count in reasons.items()]
    if not_run := sum(one.verdict == NOT_RUN for one in claims):
        words.append(f"{not_run} not run")
    return [f"Other claims: {'; '.join(words)}."] if words else []


def boundary_table(experiment: Experiment, result: dict) -> str:
    """pass@128 before and after, and the regimes seed by seed, of each task."""
    lines = [
        "|task|pass@128 before|after|regime, seed by seed (`evaluate.py --help`)|",
        "|---|---:|---:|---|",
    ]
    for task in experiment.tasks:
        before, after = (
            [run["pass_at_k"][point][task] for run in result["runs"]]
            for point in ("before", "after")
        )
        shares = [fmean(one["pass"]["128"] for one in seeds) for seeds in (before, after)]
        regimes = Counter(one["regime"] for one in after)
        words = ", ".join(f"{count} {word}" for word, count in regimes.most_common())
        lines.append(f"|{task.removeprefix('tiny/')}|{shares[0]:.3f}|{shares[1]:.3f}|{words}|")
    return "\n".join(lines)
