"""lab/README.md, from papers.py and the results.json of every experiment."""

import json
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from lab import figure
from lab.papers import EXPERIMENTS, Experiment
from lab.verdicts import RULE, VERDICTS, Judged, judge, measure_claim

OPENING = """# The papers' findings, tried in the embedded worlds

Three papers say what matters in reinforcement learning of language models. Here their claims are
tested in [small worlds](../tiny/README.md): chains of arithmetic, compositions of opaque functions,
and the same with answers that fork at every line. An experiment compares arms, each one a command
line of `justrl.py`, `prorl.py` or `liteppo.py`, over paired seeds: the same problems and the same
seeds of sampling. What all arms share was fixed before any two of them were compared, and no arm
was tuned. Worlds this small can show that a mechanism exists; they cannot show that it matters at
scale.

    python -m lab                     # the experiments, their arms and how long they take
    python -m lab prorl_boundary      # run one, and see what it says
    python -m lab page                # write this page again

JustRL's own question, whether the complexity of other systems is necessary, has a script and a page
of its own: [docs/table1.md](../docs/table1.md). At equal sampled tokens, no technique and no system
gains three points on JustRL there.

Arms are compared at equal steps, with the same number of answers a step, unless the text says
otherwise. In short:

- RL moves the boundary of what a model can solve at all where an answer is a chain of skills that
  the model has, and where guessing is hopeless (prorl_boundary). Where guesses succeed, the
  question has no answer (prorl_boundary_arithmetic).
- A KL penalty that is felt slows the learning, and a reset of the reference lets it go on
  (prorl_reset).
- At equal steps DAPO's dynamic sampling beats Lite PPO (lite_ppo). The paper says the opposite.
- A robust verifier in training costs JustRL accuracy on longer chains (justrl_ablations).
- Where a rare token has to become the usual one, a higher upper bound of the clip lets it rise
  sooner, and from a base model the arm with the lower bound is still behind at the end
  (clip_higher). The paper finds the gain with aligned models alone.
- How advantages are scaled, and whether tokens or sequences weigh alike, makes no difference to
  accuracy (normalization, aggregation)."""


def read_results(out: Path) -> dict[str, dict]:
    """{experiment: its results.json}, of those that have been run."""
    paths = {name: out / "results" / name / "results.json" for name in EXPERIMENTS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def judge_all(results: dict[str, dict]) -> dict[str, list[Judged]]:
    """{experiment: its claims with their verdicts}. All claims are judged together."""
    measured = {name: measure(EXPERIMENTS[name], result) for name, result in results.items()}
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
        seen.setdefault(run["arm"], {})[run["seed"]] = run["measures"]
    return seen


def write_page(out: Path) -> None:
    """Write README.md and every figure anew."""
    results = read_results(out)
    judged = judge_all(results)
    for name, result in results.items():
        path = out / "results" / name / "figure.png"
        figure.draw(EXPERIMENTS[name], result, judged[name], path)
    (out / "README.md").write_text(page(results, judged))


def page(results: dict[str, dict], judged: dict[str, list[Judged]]) -> str:
    parts = [OPENING, summary(judged), fill(power(judged)), f"## The rule\n\n{RULE}"]
    for name, experiment in EXPERIMENTS.items():
        parts += [f"## {name}", fill(f"**The paper.** {experiment.paper}")]
        if name in results:
            parts += findings(name, experiment, results[name], judged[name])
        else:
            claims = "".join(f"\n- {claim}" for claim in experiment.claims)
            parts.append(
                fill(f"**Not run yet.** {experiment.found}") + f"\n\nIts claims:\n{claims}"
            )
        parts.append(fill(f"**Try it.** {experiment.try_it}"))
    return "\n\n".join(parts) + "\n"


def fill(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def summary(judged: dict[str, list[Judged]]) -> str:
    """How many claims of each experiment got which verdict."""
    lines = [f"| experiment | {' | '.join(VERDICTS)} |", "|---|" + "---:|" * len(VERDICTS)]
    total = Counter()
    for name, claims in judged.items():
        seen = Counter(one.verdict for one in claims)
        total += seen
        lines.append(f"| [{name}](#{name}) | {' | '.join(str(seen[v]) for v in VERDICTS)} |")
    lines.append(f"| all {total.total()} | {' | '.join(str(total[v]) for v in VERDICTS)} |")
    return "\n".join(lines)


def power(judged: dict[str, list[Judged]]) -> str:
    """How many of the undecided claims lack seeds."""
    undecided = [one for claims in judged.values() for one in claims if one.verdict == "undecided"]
    lacking = [one for one in undecided if one.seeds_needed > len(one.differences)]
    most = max((one.seeds_needed for one in lacking), default=0)
    return (
        f"Of the {len(undecided)} undecided claims, {len(lacking)} lack seeds: by the variance "
        f"seen, they take up to {most} (last column of each table). `python -m lab NAME --most N` "
        "adds them."
    )


def findings(name: str, experiment: Experiment, result: dict, claims: list[Judged]) -> list[str]:
    seeds = figure.seed_counts(result)
    when = f"{seeds} seeds, {result['steps']} steps, run on {result['date']}"
    pictures = [f"![{name}](results/{name}/figure.png)"]
    if not has_curves(result):  # runs of an older format kept them as a picture alone
        pictures.insert(0, f"![curves of {name}](results/{name}/curves.png)")
    parts = [
        fill(f"**Here** ({when}). {experiment.found}"),
        *pictures,
        claim_table(claims),
        arm_table(experiment, result),
    ]
    if experiment.tasks:
        parts.append(boundary_table(experiment, result))
    return parts


def has_curves(result: dict) -> bool:
    return all("curves" in run for run in result["runs"])


def claim_table(claims: list[Judged]) -> str:
    lines = ["| claim | difference | verdict | seeds | needed |", "|---|---|---|---:|---:|"]
    for one in claims:
        needed = str(one.seeds_needed) if one.seeds_needed <= 1000 else "over 1,000"
        seeds = len(one.differences)
        lines.append(f"| {one.claim} | {one} | **{one.verdict}** | {seeds} | {needed} |")
    return "\n".join(lines)


def arm_table(experiment: Experiment, result: dict) -> str:
    """The measures of each arm, the mean of its seeds."""
    seen = by_arm(result)
    metrics = dict.fromkeys([*experiment.panels, *(c.metric for c in experiment.claims)])
    lines = [f"| arm | {' | '.join(metrics)} |", "|---|" + "---:|" * len(metrics)]
    for name in experiment.commands():
        means = [f"{fmean(m[metric] for m in seen[name].values()):.3g}" for metric in metrics]
        lines.append(f"| {name} | {' | '.join(means)} |")
    return "\n".join(lines)


def boundary_table(experiment: Experiment, result: dict) -> str:
    """pass@128 before and after, and the regimes seed by seed, of each task."""
    lines = [
        "| task | pass@128 before | after | regime, seed by seed (`evaluate.py --help`) |",
        "|---|---:|---:|---|",
    ]
    for task in experiment.tasks:
        level = task.removeprefix("tiny/")
        seen = [run["measures"] for run in result["runs"]]
        regimes = Counter(m[f"regime {level}"] for m in seen).most_common()
        words = ", ".join(f"{count} {regime}" for regime, count in regimes)
        ends = [
            f"{fmean(m[f'{point}@128 {level}'] for m in seen):.3f}"
            if f"{point}@128 {level}" in seen[0]
            else ""
            for point in ("before", "after")
        ]
        lines.append(f"| {level} | {' | '.join(ends)} | {words} |")
    return "\n".join(lines)
