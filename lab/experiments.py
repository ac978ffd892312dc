"""The papers' findings, tried in the embedded world: arms x paired seeds of the three scripts, a figure, a verdict.

    python -m lab                                      the experiments: what the paper claims, the arms, the time
    python -m lab clip_higher [--seeds 5] [--jobs 2]   run one: lab/results/clip_higher/{results.json,figure.png}
    python -m lab clip_higher --steps 8 --seeds 2      try it out: shorter, all of it under lab/runs/clip_higher-8steps
    python -m lab all                                  run all eight, one after the other
    python -m lab gallery                              write lab/README.md from the results there are

Each run is one of the scripts as a subprocess, with flags of its own that results.json keeps. Killed anywhere, the same
command goes on: finished runs are kept, a cut one resumes exactly. Runs are under lab/runs, which git ignores.

Nothing is tuned for an arm: what all arms share was fixed before any two were compared, and stands in the first section
below. "It does not show at this scale" is a result.
"""

import argparse
import fcntl
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from tqdm import tqdm

from trainer import plot

ROOT = Path(__file__).resolve().parents[1]
RULE = """A claim is an inequality the paper predicts: "metric | arm & arm > arm". A run's figure is the metric's
mean over the last quarter of its steps (grad_growth: the log of the gradient norm there over that in the first
quarter), or what evaluate.py finds in its last checkpoint (final_, rise@). Seed by seed, the mean figure
of the arms on the left less that of the right is a paired difference (with two arms a side that differ in two
things, half a difference of differences). Over the seeds it has a mean and a 95 % t interval. All of the interval on
the predicted side of zero: "as in the paper"; all of it on the other: "opposite"; else, and where the seeds do not
differ at all, which a t interval knows nothing about: "cannot tell". Claims are judged one by one: of fifty with
nothing in them, chance would read one "as in the paper" and one "opposite"."""

# ------------------------------------------------------------------------------------- what all arms share, fixed first

COMMON = """--tiny --engine transformers --prompts_per_step 16 --samples_per_prompt 8 --learning_rate 1e-4
 --warmup_steps 10 --eval_samples 2 --keep_checkpoints 3"""
# Eight updates a batch: with few, the ratio never comes near a bound of the clip and no arm of it can differ.
LITEPPO = "liteppo.py --updates_per_step 8"
JUSTRL, PRORL = (
    "justrl.py --updates_per_step 4",
    "prorl.py --updates_per_step 4 --reset_patience 0",
)  # the papers' four
EASY, HARD = (
    f"--data tiny:train/{level} --eval_data tiny:eval/{level}" for level in ("easy", "hard")
)
BASE, ALIGNED = "--model tiny:base", "--model tiny:aligned"

LAST, MIDDLE = "{run}/checkpoints/step_{steps:06d}", "{run}/checkpoints/step_{middle:06d}"
LEVELS = ("easy", "medium", "hard", "ood")

# --------------------------------------------------------------------------------------------------------- experiments


@dataclass(frozen=True)
class Experiment:
    paper: str  # what it says
    arms: dict[
        str, dict[str, str]
    ]  # {facet of the figure: {label: script and flags}}; an arm is "facet: label"
    claims: tuple[str, ...]  # "metric | arm & arm > arm & arm", or "> 0": see RULE and parse
    panels: tuple[str, ...]  # metrics drawn, see PANELS
    steps: int
    seconds: int  # of one run on one idle core, evaluations included
    scale: str  # why it may differ in the embedded world
    evaluate: str = ""  # flags for evaluate.py
    points: dict[str, str] = field(default_factory=dict)  # what it measures: {name: model}

    def commands(self) -> dict[str, str]:
        """{arm: script and flags}"""
        return {
            arm(f, label): command
            for f, labels in self.arms.items()
            for label, command in labels.items()
        }


def arm(facet: str, label: str) -> str:
    return f"{facet}: {label}" if facet else label


def cross(facets: dict[str, str], labels: dict[str, str]) -> dict[str, dict[str, str]]:
    return {
        facet: {label: f"{command} {flags}" for label, command in labels.items()}
        for facet, flags in facets.items()
    }


EXPERIMENTS = {}

SCALES = ("group/group", "group/batch", "group/none", "batch/batch")
EXPERIMENTS["normalization"] = Experiment(
    paper="Tricks or Traps, analysis 1: on easy data the rewards of a group become alike, and dividing by their std "
    "blows the gradient up, so that the mean alone is better; on hard data it makes no difference. The group's mean "
    "with the batch's std is best. With rewards of 0 and 1 the batch's mean and std are worse than the group's.",
    arms=cross(
        {"easy": EASY, "hard": HARD},
        {
            name: f"{LITEPPO} --center {name.split('/')[0]} --scale {name.split('/')[1]}"
            for name in SCALES
        },
    ),
    claims=(
        "reward_std | easy: group/group < hard: group/group",
        "grad_growth | easy: group/group > easy: group/none",
        "eval_accuracy | easy: group/none > easy: group/group",
        "eval_accuracy | easy: group/none & hard: group/group > easy: group/group & hard: group/none",
        "eval_accuracy | easy: group/batch > easy: group/group",
        "eval_accuracy | hard: group/batch > hard: group/group",
        "eval_accuracy | easy: group/group & hard: group/group > easy: batch/batch & hard: batch/batch",
    ),
    panels=("eval_accuracy", "reward_std", "grad_norm", "entropy"),
    steps=40,
    seconds=40,
    scale="AdamW divides by the gradient's own size, so that a factor common to all advantages of many steps is lost: "
    "scales differ only by how they weigh groups against each other and steps against their neighbours. Nothing blew "
    "up in 40 steps: as rewards of a group became alike, the norm of group/group stayed level where that of group/none "
    "fell with them, and it was the batch's std that let it grow.",
)

BOUNDS = ("0.20", "0.24", "0.28", "0.32", "0.40")
EXPERIMENTS["clip_higher"] = Experiment(
    paper="Tricks or Traps, analysis 2: for base models a higher upper bound of the clip changes entropy little and "
    "can hurt; for aligned ones it slows the loss of entropy and raises accuracy. The smaller aligned model gains up "
    "to 0.32, the larger one is best at 0.28.",
    arms=cross(
        {
            "base": BASE,
            "aligned": ALIGNED,
            "base small": "--model tiny:base-small",
            "aligned small": "--model tiny:aligned-small",
        },
        # Three times the rate of the others: at theirs, ratios stay so near 1 that one token in 10,000 meets the bound.
        {bound: f"{LITEPPO} --learning_rate 3e-4 --clip_high {bound}" for bound in BOUNDS},
    ),
    claims=(
        "entropy | aligned: 0.28 & aligned small: 0.28 > aligned: 0.20 & aligned small: 0.20",
        "eval_accuracy | aligned: 0.28 & aligned small: 0.28 > aligned: 0.20 & aligned small: 0.20",
        "eval_accuracy | base: 0.28 & base small: 0.28 < base: 0.20 & base small: 0.20",
        "entropy | aligned: 0.28 & base: 0.20 > aligned: 0.20 & base: 0.28",
        "eval_accuracy | aligned small: 0.32 > aligned small: 0.20",
        "eval_accuracy | aligned: 0.28 > aligned: 0.32",
    ),
    panels=("eval_accuracy", "entropy", "clip_fraction_high"),
    steps=32,
    seconds=29,
    scale="Eight updates a batch at a rate of 3e-4, so that ratios reach the bounds at all: chosen with one arm, "
    "0.20, for a share of clipped tokens near one in a thousand. That is the edge of what trains without falling "
    "apart, and seeds differ by more than any arm: the bound does halve the clipped share between 0.20 and 0.40, but "
    "of two tokens in a thousand, and nothing else follows it. The two sizes differ by a factor of two or three in "
    "parameters, as the paper's do, but have a vocabulary of a hundred characters and few tokens at which an answer "
    "forks.",
)

EXPERIMENTS["aggregation"] = Experiment(
    paper="Tricks or Traps, analysis 3: from a base model every token should weigh alike, most of all on hard data; "
    "from an aligned one every sequence should, in most settings.",
    arms=cross(
        {"base, easy": f"{BASE} {EASY}", "base, hard": f"{BASE} {HARD}"}
        | {"aligned, easy": f"{ALIGNED} {EASY}", "aligned, hard": f"{ALIGNED} {HARD}"},
        {how: f"{LITEPPO} --aggregation {how}" for how in ("token", "sequence")},
    ),
    claims=(
        "eval_accuracy | base, easy: token > base, easy: sequence",
        "eval_accuracy | base, hard: token > base, hard: sequence",
        "eval_accuracy | base, hard: token & base, easy: sequence > base, hard: sequence & base, easy: token",
        "eval_accuracy | aligned, easy: sequence > aligned, easy: token",
        "eval_accuracy | aligned, hard: sequence > aligned, hard: token",
    ),
    panels=("eval_accuracy", "length", "entropy"),
    steps=40,
    seconds=39,
    scale="Answers are 5 to 64 tokens long; the paper's differ by thousands, and with them the weight that a sequence "
    "mean takes from a long answer's tokens. The longest answers are those that never stop: the token mean punishes "
    "them in full and keeps half as many. Our aligned model is a short tuning away from the base and, by this "
    "verifier, solves no more, so that the paper's distinction between the two can hardly show.",
)

EXPERIMENTS["overlong_filter"] = Experiment(
    paper="Tricks or Traps, analysis 4: masking truncated answers out of the loss helps at a short length limit and "
    "little at a long one. At the short limit it makes answers shorter, at the long one longer. Truncated answers at "
    "the long limit mostly repeat themselves without end, and the filter makes those fewer.",
    arms=cross(
        {
            f"limit {limit}": f"--max_response_tokens {limit} --eval_max_tokens {limit}"
            for limit in (32, 96)
        },
        {
            name: f"{LITEPPO} {HARD} --overlong_filter {name == 'filter'}"
            for name in ("filter", "none")
        },
    ),
    claims=(
        "eval_accuracy | limit 32: filter > limit 32: none",
        "eval_accuracy | limit 32: filter & limit 96: none > limit 32: none & limit 96: filter",
        "length | limit 32: filter < limit 32: none",
        "length | limit 96: filter > limit 96: none",
        "final_endless hard | limit 32: filter & limit 96: filter < limit 32: none & limit 96: none",
    ),
    panels=("eval_accuracy", "truncated", "length"),
    steps=40,
    seconds=49,
    scale="An honest answer on the hard level takes up to about 40 tokens, an endless one as many as it may: 32 cuts "
    "both, 96 the endless alone. final_endless is the share of answers that have not ended after 192 tokens, whatever "
    "the limit in training was. A masked endless answer is not punished for being wrong, and nothing else here teaches "
    "the model to stop: without the filter endless answers all but vanish, with it they stay.",
    evaluate="--benchmarks tiny/hard --n 4 --temperature 1.0 --top_p 1.0 --max_tokens 192",
    points={"after": LAST},
)

DAPO = f"""prorl.py --updates_per_step 8 {BASE} --kl_coefficient 0 --reset_every 0 --reset_patience 0 --clip_high 0.28
 --weight_decay 0 --temperature 0.99 --eval_temperature 0.99 --eval_top_p 0.99"""
EXPERIMENTS["lite_ppo"] = Experiment(
    paper="Tricks or Traps, section 5: from base models, Lite PPO (group mean, batch std, every token alike) ends "
    "above GRPO and DAPO, on easy and on hard data; on easy data the others collapse after a peak.",
    arms=cross(
        {"easy": EASY, "hard": HARD},
        {
            "Lite PPO": LITEPPO,
            "GRPO": f"{LITEPPO} --scale group --aggregation sequence",
            "DAPO": DAPO,
        },
    ),
    claims=(
        "eval_accuracy | easy: Lite PPO > easy: GRPO",
        "eval_accuracy | easy: Lite PPO > easy: DAPO",
        "eval_accuracy | hard: Lite PPO > hard: GRPO",
        "eval_accuracy | hard: Lite PPO > hard: DAPO",
    ),
    panels=("eval_accuracy", "entropy", "length"),
    steps=56,
    seconds=47,
    scale="DAPO is the ProRL script without KL penalty and resets: dynamic sampling, clip-higher and the token mean, "
    "but no rule for overlong answers (about one in a hundred is, here), and no top-p or top-k. It samples until every "
    "group is mixed, late in training 56 groups for 16 on easy data and 29 on hard (sampled_groups in results.json): "
    "curves and claims are by step, as the paper's, and its lead is bought with those answers. The paper's collapse "
    "comes after hundreds of steps.",
)

EXPERIMENTS["justrl_ablations"] = Experiment(
    paper="JustRL, section 4.4: the overlong penalty, and a robust verifier on top of it, each make the recipe worse "
    "(about 55, 50, 45 on AIME 2024) and halve its entropy. The paper did not try the verifier alone: the claims about "
    "it extend the paper's.",
    arms={
        "": {
            "recipe": JUSTRL,
            "penalty": f"{JUSTRL} --overlong_penalty True",
            "penalty + verifier": f"{JUSTRL} --overlong_penalty True --robust_verifier True",
            "verifier": f"{JUSTRL} --robust_verifier True",
        }
    },
    claims=(
        "final_accuracy tiny | penalty < recipe",
        "final_accuracy ood | penalty < recipe",
        "entropy | penalty < recipe",
        "final_accuracy tiny | penalty + verifier < penalty",
        "final_accuracy ood | penalty + verifier < penalty",
        "entropy | penalty + verifier < recipe",
        "final_accuracy tiny | verifier < recipe",
        "final_accuracy ood | verifier < recipe",
    ),
    panels=("eval_accuracy", "entropy", "length", "truncated"),
    steps=56,
    seconds=55,
    scale="The paper's curves part after 2,000 steps, from single runs. final_accuracy is by the robust verifier in "
    "all arms, at the paper's T 0.7 and top-p 0.9 (final_strict stands in results.json); the curves show each arm by "
    "the verifier it trains with. On the levels trained on, every arm came to 0.99 and none could win; the longer "
    "chains of ood, where there is room, were added after that was seen and before any figure of theirs was. The "
    "strict box rejects four in ten of the starting model's right answers for their form: learning the form costs "
    "entropy, which arms with the robust verifier keep. The penalty begins at 40 tokens, and few answers are that "
    "long.",
    evaluate="--benchmarks tiny,tiny/ood --n 8 --max_tokens 96",
    points={"after": LAST},
)

RESET, NO_KL = "--reset_every 24", "--kl_coefficient 0 --reset_every 0"
EXPERIMENTS["prorl_reset"] = Experiment(
    paper="ProRL, section 2.3.1: a KL penalty keeps entropy up and the policy stable, but its share of the loss grows "
    "until nothing more is learnt; a hard reset of reference and optimizer lets training go on. The paper has no "
    "ablation of it.",
    arms={
        "": {
            "no KL": f"{PRORL} {NO_KL}",
            **{f"KL {c}": f"{PRORL} --kl_coefficient {c} --reset_every 0" for c in ("1e-4", "1")},
            **{f"KL {c}, resets": f"{PRORL} --kl_coefficient {c} {RESET}" for c in ("1e-4", "1")},
            "KL 1, resets, optimizer kept": f"{PRORL} --kl_coefficient 1 {RESET} --reset_optimizer False",
        }
    },
    claims=(
        "kl_loss_share | KL 1e-4, resets < KL 1e-4",
        "eval_accuracy | KL 1e-4, resets > KL 1e-4",
        "entropy | KL 1e-4 > no KL",
        "eval_accuracy | KL 1e-4, resets > no KL",
        "kl_loss_share | KL 1, resets < KL 1",
        "eval_accuracy | KL 1, resets > KL 1",
        "entropy | KL 1 > no KL",
        "eval_accuracy | KL 1, resets > no KL",
        "eval_accuracy | KL 1, resets > KL 1, resets, optimizer kept",
    ),
    panels=("eval_accuracy", "kl_loss_share", "kl", "entropy"),
    steps=72,
    seconds=62,
    scale="1e-4 is the technical report's coefficient. A tiny model moves by less than a tenth of a nat in so few "
    "steps, and that penalty is a hundred-thousandth of its loss: whatever its arms show comes from the fresh "
    "optimizer, or from chance. So 1 stands beside it, picked for a share of about a hundredth before any two arms "
    "were compared; there the paper's account can be seen whole: the penalty holds entropy up and stops the "
    "learning, and each reset lets it go on. The paper's resets are some hundreds of steps apart, not 24.",
)

EXPERIMENTS["prorl_boundary"] = Experiment(
    paper="ProRL, section 4: prolonged training extends what the model can solve at all. pass@128 rises most where "
    "the base is weakest, little where it is strong, and also on problems unlike those of training.",
    arms={"": {"ProRL": f"{PRORL} {RESET} {ALIGNED}"}},
    claims=(
        *(f"rise@1 {level} | ProRL > 0" for level in LEVELS),
        "rise@128 hard | ProRL > 0",
        "rise@128 ood | ProRL > 0",
    ),
    panels=(),
    steps=64,
    seconds=157,
    scale="At 128 answers the levels trained on are solved before training begins, so there is no boundary to "
    "extend, and over levels that tie, the paper's correlation of rise with the base's weakness has no value. The "
    "out-of-distribution level, chains longer than pretraining had, does leave room. There the base's answers differ "
    "so much that one of 128 is mostly right; training on shorter chains makes the answers to a problem alike, more "
    "of them right and more problems without any.",
    evaluate="--protocol prorl --max_tokens 64 --n 128 --limit 40 --benchmarks "
    + ",".join(f"tiny/{level}" for level in LEVELS),
    points={"before": "tiny:aligned", "midway": MIDDLE, "after": LAST},
)

# ---------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Run:
    """One arm with one seed: its folder and the commands that fill it, one after the other."""

    arm: str
    seed: int
    folder: Path
    commands: list[list[str]]  # without the interpreter
    checkpoint: Path  # the last one: there when the script has done all its steps


def plan(experiment: Experiment, runs: Path, seeds: int, steps: int) -> list[Run]:
    """All runs, seed by seed, so that an experiment cut short has whole pairs."""
    result, trial = [], steps != experiment.steps
    for seed in range(seeds):
        for name, command in experiment.commands().items():
            folder = runs / re.sub(r"[^\w.]+", "-", name) / f"seed{seed}"
            fill = {"run": folder, "steps": steps, "middle": max(1, steps // 2)}
            script, *own = shlex.split(command)
            often = [
                "--steps",
                steps,
                "--eval_every",
                max(1, steps // 8),
                "--save_every",
                max(1, steps // 2),
            ]
            commands = [
                [script, *shlex.split(COMMON), *own, *often, "--seed", seed, "--out", folder]
            ]
            for point, model in experiment.points.items():
                few = ["--limit", 8] if trial else []
                flags = [
                    *shlex.split(experiment.evaluate),
                    *few,
                    "--engine",
                    "transformers",
                    "--seed",
                    seed,
                ]
                commands.append(
                    ["evaluate.py", model.format(**fill), *flags, "--out", folder / point]
                )
            if "before" in experiment.points:
                compared = [folder / point for point in ("before", "after", "midway")]
                commands.append(
                    ["evaluate.py", "--compare", *compared, "--out", folder / "compare"]
                )
            words = [[str(word) for word in command] for command in commands]
            result.append(Run(name, seed, folder, words, Path(LAST.format(**fill))))
    return result


LIVE = set()  # processes running now
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
}


def written(command: list[str]) -> str:
    """A command as results.json keeps it: to be typed behind `python` in the repository."""
    return shlex.join(command).replace(f"{ROOT}/", "")


def finished(run: Run) -> dict[str, float]:
    """{command: seconds it took} of the commands of a run that are done."""
    path = run.folder / "done.json"
    return json.loads(path.read_text()) if path.exists() else {}


def carry_out(run: Run) -> None:
    """Run what is not done yet. Raises ValueError with the script's last words when one fails."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "log.txt", "a") as log:
        # Held by the subprocess as well: one that outlived a killed lab is waited for, not doubled.
        fcntl.flock(log, fcntl.LOCK_EX)
        for command in run.commands:
            if (line := written(command)) in finished(run):
                continue
            start = time.perf_counter()
            words = [sys.executable, *command]
            output = dict(stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[log.fileno()])
            process = subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, **output)
            LIVE.add(process)
            code = process.wait()
            LIVE.discard(process)
            if code or not run.checkpoint.is_dir():  # a stopped script saves, and exits with 0
                last = (run.folder / "log.txt").read_text().strip().splitlines()[-1:] or ["nothing"]
                raise ValueError(
                    f"{line} did not finish; the last of {run.folder}/log.txt: {last[0][-300:]}"
                )
            done = finished(run) | {line: round(time.perf_counter() - start, 1)}
            aside = run.folder / "done.tmp"
            aside.write_text(json.dumps(done, indent=1))
            aside.replace(run.folder / "done.json")


def carry_out_all(name: str, runs: list[Run], jobs: int) -> None:
    """Run all of them, `jobs` at a time, behind a bar. A failure or an interrupt stops the others, which can resume."""
    if any("-small" in word for run in runs for word in run.commands[0]):
        from tiny.pretrain import base_model  # here: torch takes seconds to import

        (
            base_model("base-small"),
            base_model("aligned-small"),
        )  # once, before two runs would build them side by side
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), unit="run", desc=name) as bar:
        futures = [pool.submit(carry_out, run) for run in runs]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(LIVE):
                process.terminate()


# ---------------------------------------------------------------------------------------------------------- statistics


def figures(run: Run, steps: int) -> dict[str, float]:
    """What a run comes to: metrics as means over the last quarter of its steps, and what evaluate.py measured."""
    rows, quarter = plot.read_metrics(run.folder), max(1, steps // 4)
    late, early = (
        [r for r in rows if r["step"] > steps - quarter],
        [r for r in rows if 0 < r["step"] <= quarter],
    )
    keys = {
        key
        for r in late
        for key in r
        if plot.is_number(r[key]) and not key.startswith("seconds") and key != "step"
    }
    result = {key: fmean(r[key] for r in late if key in r) for key in sorted(keys)}
    ratio = result["grad_norm"] / max(1e-12, fmean(r["grad_norm"] for r in early))
    result["grad_growth"] = math.log(max(1e-12, ratio))
    if (path := run.folder / "compare" / "compare.json").exists():
        compared = json.loads(path.read_text())
        for task, values in compared["tasks"].items():
            level = task.removeprefix("tiny/")
            result[f"rise@1 {level}"], result[f"rise@128 {level}"] = (
                values["rise_1"],
                values["rise_max"],
            )
            result[f"regime {level}"] = values["regime"]
    elif (path := run.folder / "after" / "eval.json").exists():
        measured = json.loads(path.read_text())
        for name, bench in measured["benchmarks"].items():
            level = name.removeprefix("tiny/")
            result[f"final_accuracy {level}"] = bench["robust"]["1"][0]
            result[f"final_strict {level}"] = bench["strict"]["1"][0]
            result[f"final_endless {level}"] = bench["truncated"]
    return result


def interval(differences: list[float]) -> tuple[float, float, float]:
    """(mean, low, high): the 95 % t interval of paired differences, one a seed."""
    from evaluate import margin  # here: torch takes seconds to import

    mean, half = fmean(differences), margin(differences)
    return mean, mean - half, mean + half


def verdict(sign: int, low: float, high: float) -> str:
    """The RULE's last step. An interval that touches zero covers it; one without width is none."""
    if high - low < 1e-9:
        return "cannot tell"
    if low > 0 or high < 0:
        return "as in the paper" if (low > 0) == (sign > 0) else "opposite"
    return "cannot tell"


def parse(claim: str) -> tuple[str, int, list[str], list[str]]:
    """ "metric | a & b > c" -> (metric, predicted sign of left less right, arms on the left, arms on the right)."""
    metric, inequality = claim.split(" | ")
    left, relation, right = re.split(r" ([<>]) ", inequality)
    return (
        metric,
        1 if relation == ">" else -1,
        left.split(" & "),
        [] if right == "0" else right.split(" & "),
    )


def judge(claim: str, seen: dict[str, dict[int, dict]]) -> dict:
    """A claim's differences, interval and verdict; seen: {arm: {seed: figures}}."""
    metric, sign, left, right = parse(claim)

    def mean(arms: list[str], seed: int) -> float:
        return fmean(seen[name][seed][metric] for name in arms) if arms else 0.0

    differences = [mean(left, seed) - mean(right, seed) for seed in seen[left[0]]]
    middle, low, high = interval(differences)
    result = {
        "claim": claim,
        "sign": sign,
        "differences": differences,
        "mean": middle,
        "low": low,
        "high": high,
    }
    return result | {"verdict": verdict(sign, low, high)}


def sentence(judged: dict) -> str:
    return "**{verdict}**: `{claim}` ({mean:+.3g}, 95 % interval {low:+.3g} to {high:+.3g})".format(
        **judged
    )


# ------------------------------------------------------------------------------------------------------------- figures

PANELS = {  # {metric: (title, unit, logarithmic)}
    "eval_accuracy": ("Held-out accuracy", "share solved", False),
    "entropy": ("Entropy", "nats per token", False),
    "length": ("Response length", "tokens", False),
    "truncated": ("Truncated answers", "share", False),
    "grad_norm": ("Gradient norm", "before clipping", True),
    "reward_std": ("Spread of rewards", "std inside a group", False),
    "clip_fraction_high": ("Clipped above", "share of tokens", False),
    "kl": ("KL to the reference", "nats per token", False),
    "kl_loss_share": ("KL's share of the loss", "share", True),
}


def draw_curves(cells: list[list], experiment: Experiment, runs: list[Run], steps: int) -> list:
    """Metrics over steps, a row of panels each, a column a facet; mean of the seeds in a band of their range."""
    for column, (facet, labels) in enumerate(experiment.arms.items()):
        groups = {
            label: [plot.read_metrics(run.folder) for run in runs if run.arm == arm(facet, label)]
            for label in labels
        }
        for row, metric in zip(cells, experiment.panels, strict=True):
            title, unit, logarithmic = PANELS[metric]
            title = f"{facet}: {title.lower()}" if facet else title
            plot.draw_metric(
                row[column],
                (title, unit, {metric: ""}, logarithmic),
                groups,
                steps,
                max(1, steps // 30),
            )
    return [plt.Line2D([], [], label=label, **plot.look(i)) for i, label in enumerate(labels)]


def draw_pass_at_k(cells: list[list], experiment: Experiment, runs: list[Run]) -> list:
    """pass@k before, midway and after, a column a level, mean and range of the seeds; below, pass@1 of the problems."""
    for column, level in enumerate(LEVELS):
        curves, solved = [], []
        for point in experiment.points:
            seen = [json.loads((run.folder / point / "eval.json").read_text()) for run in runs]
            tasks = [evaluation["tasks"][f"tiny/{level}"] for evaluation in seen]
            curve = {k: [task["robust"][k][0] for task in tasks] for k in tasks[0]["robust"]}
            curves.append(
                {k: [fmean(values), min(values), max(values)] for k, values in curve.items()}
            )
            solved.append([value for task in tasks for value in task["solved"]])
        plot.draw_pass_at_k(cells[0][column], curves)
        plot.draw_histogram(cells[1][column], solved)
        cells[0][column].set_title(level)
    return [
        plt.Line2D([], [], label=point, **plot.look(i)) for i, point in enumerate(experiment.points)
    ]


def draw_contrasts(axes: list, judged: list[dict]) -> None:
    """A bar from zero to each claim's mean difference, its interval, and the predicted side shaded. Units differ."""
    for ax, claim in zip(axes, judged, strict=True):
        middle, low, high = claim["mean"], claim["low"], claim["high"]
        edge = 1.15 * max(abs(low), abs(high)) or 1.0
        ax.axvspan(*((0, edge) if claim["sign"] > 0 else (-edge, 0)), color="0.92", zorder=0)
        ax.barh(0, middle, 0.5, facecolor=plot.COLOURS[4], edgecolor="black", linewidth=0.6)
        ax.errorbar(middle, 0, xerr=[[middle - low], [high - middle]], color="black", capsize=4)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(yticks=[], xlim=(-edge, edge))
        ax.grid(False)
        ax.set_title(f"{claim['claim']}: {claim['verdict']}", loc="left", fontsize=9)
        ax.tick_params(labelsize=8)


def draw(
    experiment: Experiment, runs: list[Run], judged: list[dict], steps: int, out: Path
) -> None:
    """One picture: curves (or pass@k) above, the claims' contrasts below."""
    rows, columns = (
        (len(experiment.panels), len(experiment.arms)) if experiment.panels else (2, len(LEVELS))
    )
    if columns == 1:  # no facets: the panels side by side
        rows, columns = 1, rows
    wide, high = max(7.4, 3.7 * columns), 2.8 * rows + 0.75 * len(judged)
    with plt.rc_context(plot.STYLE):
        figure = plt.figure(figsize=(wide, high), layout="constrained")
        grid = figure.add_gridspec(
            rows + len(judged), columns, height_ratios=[2.8] * rows + [0.75] * len(judged)
        )
        cells = [
            [figure.add_subplot(grid[row, column]) for column in range(columns)]
            for row in range(rows)
        ]
        if len(experiment.arms) == 1 and experiment.panels:
            cells = [[ax] for ax in cells[0]]
        if experiment.panels:
            handles = draw_curves(cells, experiment, runs, steps)
        else:
            handles = draw_pass_at_k(cells, experiment, runs)
        draw_contrasts([figure.add_subplot(grid[rows + i, :]) for i in range(len(judged))], judged)
        seeds = len({run.seed for run in runs})
        note = f"{seeds} paired seeds, in bands of their range; below: mean difference, 95 % interval, predicted side grey"
        plot.finish(figure, handles, out, note)


# -------------------------------------------------------------------------------------------------------- command line


GALLERY = """# The papers' findings, tried in the embedded world

Written by `python -m lab gallery` from the `results.json` beside each figure, which `python -m lab NAME` makes. Each
experiment compares arms of the three scripts over paired seeds: the same problems, the same seeds of sampling. What all
arms share was fixed before any two were compared, and no arm was tuned. Several claims may say the same of one paper's
sentence; each has its own verdict."""


def minutes(experiment: Experiment, seeds: int, jobs: int) -> int:
    return math.ceil(len(experiment.commands()) * seeds * experiment.seconds / jobs / 60)


def listing(seeds: int, jobs: int) -> str:
    blocks = []
    for name, experiment in EXPERIMENTS.items():
        arms = [
            f"{facet or 'arms'}: {', '.join(labels)}" for facet, labels in experiment.arms.items()
        ]
        runs = f"{len(experiment.commands())} arms x {seeds} seeds, about {minutes(experiment, seeds, jobs)} minutes"
        paper = textwrap.fill(experiment.paper, 110)
        blocks.append(
            f"{name}  ({runs} on {jobs} cores)\n"
            + textwrap.indent("\n".join([paper, *arms]), "    ")
        )
    return "\n\n".join(blocks)


def run_experiment(name: str, out: Path, seeds: int, jobs: int, steps: int | None) -> None:
    """Run what is missing of an experiment, write results.json and figure.png, print the verdicts."""
    experiment = EXPERIMENTS[name]
    home, runs_home = out / "results" / name, out / "runs" / name
    if steps and steps != experiment.steps:
        home = runs_home = out / "runs" / f"{name}-{steps}steps"  # a try-out is no result
    steps = steps or experiment.steps
    print(
        f"{name}: about {minutes(experiment, seeds, jobs)} minutes at {experiment.steps} steps, here {steps}"
    )
    runs = plan(experiment, runs_home, seeds, steps)
    carry_out_all(name, runs, jobs)

    measured = {(run.arm, run.seed): figures(run, steps) for run in runs}
    seen = {
        label: {seed: measured[label, seed] for seed in range(seeds)}
        for label in experiment.commands()
    }
    judged = [judge(claim, seen) for claim in experiment.claims]
    records = []
    for run in runs:
        done = finished(run)
        seconds = {line: done[line] for line in map(written, run.commands)}
        records.append(
            {
                "arm": run.arm,
                "seed": run.seed,
                "commands": seconds,
                "figures": measured[run.arm, run.seed],
            }
        )
    home.mkdir(parents=True, exist_ok=True)
    result = {
        "experiment": name,
        "seeds": seeds,
        "steps": steps,
        "rule": RULE,
        "claims": judged,
        "runs": records,
    }
    (home / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(experiment, runs, judged, steps, home / "figure.png")
    print("\n".join(map(sentence, judged)))
    print(f"Written to {home}/results.json and {home}/figure.png")


def table(experiment: Experiment, result: dict) -> str:
    """Each arm's figures, the mean of its seeds, as Markdown."""
    metrics = dict.fromkeys([*experiment.panels, *(parse(claim)[0] for claim in experiment.claims)])
    lines = [f"| arm | {' | '.join(metrics)} |", "|---|" + "---:|" * len(metrics)]
    for name in experiment.commands():
        seen = [run["figures"] for run in result["runs"] if run["arm"] == name]
        means = [f"{fmean(figures[metric] for figures in seen):.3g}" for metric in metrics]
        lines.append(f"| {name} | {' | '.join(means)} |")
    return "\n".join(lines)


def gallery(out: Path) -> str:
    """lab/README.md: what the paper says, figure and verdicts of each experiment, as far as they have been run."""
    paths = {name: out / "results" / name / "results.json" for name in EXPERIMENTS}
    results = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    verdicts = ("as in the paper", "opposite", "cannot tell")
    summary = [f"| experiment | {' | '.join(verdicts)} |", "|---|" + "---:|" * len(verdicts)]
    for name, result in results.items():
        seen = [claim["verdict"] for claim in result["claims"]]
        summary.append(
            f"| [{name}](#{name}) | {' | '.join(str(seen.count(verdict)) for verdict in verdicts)} |"
        )
    parts = [GALLERY, "\n".join(summary), f"## The rule\n\n{RULE}"]
    for name, experiment in EXPERIMENTS.items():
        parts += [f"## {name}", textwrap.fill(f"**The paper.** {experiment.paper}", 120)]
        if result := results.get(name):
            parts.append(
                f"![{name}](results/{name}/figure.png)\n\n**Here**, {result['seeds']} seeds, {result['steps']} steps:"
            )
            parts.append("\n".join(f"- {sentence(judged)}" for judged in result["claims"]))
            parts.append(table(experiment, result))
            for level in LEVELS if "before" in experiment.points else ():
                regimes = ", ".join(run["figures"][f"regime {level}"] for run in result["runs"])
                parts.append(
                    f"Regimes of pass@128 on {level}, seed by seed (rule: `evaluate.py --help`): {regimes}."
                )
        else:
            parts.append(
                "**Not run yet.** Claims: "
                + "; ".join(f"`{claim}`" for claim in experiment.claims)
                + "."
            )
        parts.append(textwrap.fill(f"**At this scale.** {experiment.scale}", 120))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=RULE, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", help="an experiment, all, or gallery; none: list them")
    parser.add_argument("--seeds", type=int, default=5, help="paired seeds, two at least (5)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each (2)")
    parser.add_argument(
        "--steps", type=int, help="try it out with other than the experiment's own steps"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "lab", help="folder of runs and results (lab)"
    )
    args = parser.parse_args()
    out = args.out.resolve()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # as Ctrl-C: the runs are told, and can resume
    try:
        if args.name not in (None, "all", "gallery", *EXPERIMENTS):
            raise ValueError(
                f"no experiment is called {args.name}: use {', '.join(EXPERIMENTS)}, all or gallery"
            )
        if args.seeds < 2 or args.jobs < 1 or (args.steps is not None and args.steps < 2):
            raise ValueError("it takes two --seeds at least, one of --jobs and two --steps")
        if args.name is None:
            print(listing(args.seeds, args.jobs))
        elif args.name == "gallery":
            out.mkdir(parents=True, exist_ok=True)
            (out / "README.md").write_text(gallery(out))
            print(f"Written to {out / 'README.md'}")
        else:
            for name in EXPERIMENTS if args.name == "all" else [args.name]:
                run_experiment(name, out, args.seeds, args.jobs, args.steps)
    except (ValueError, OSError) as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit("lab: stopped; the same command goes on.")
