"""Is complexity necessary? JustRL's question, asked of the embedded world.

    python -m lab.complexity                  what would be run
    python -m lab.complexity run --seeds 3    run what is missing, then write results and figure
    python -m lab.complexity judge            write the figure and the verdicts anew

JustRL against JustRL with one technique more, and against whole systems of its Table 1, at equal
numbers of *sampled tokens*: sampling is what a run pays for, and a system that samples a batch
twice to train on half of it gets half as many updates. Seeds are paired: the same problems in the
same order and the same seeds of sampling. Everything else is what lab/table1.py --tiny sets.

A killed run goes on with the same command. Arms run one after the other in this process, seed by
seed, so that an experiment cut short has whole pairs. A run ends with the step that passes the
budget, so that one of large steps samples somewhat more.
"""

import argparse
import contextlib
import inspect
import io
import json
import math
import shlex
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, linear_regression, stdev

import matplotlib.pyplot as plt
from scipy import stats

import losses
import prorl
from lab import systems, table1, techniques
from tools import plot
from trainer.errors import Refused
from trainer.run.files import read_jsonl
from trainer.sources.load import load_problems

ROOT = Path(__file__).resolve().parents[1]
RUNS, RESULTS = ROOT / "lab" / "runs" / "complexity", ROOT / "lab" / "results" / "complexity"
PROBLEMS, BUDGET, STEPS = 64, 24_000, 11  # training problems, sampled tokens, and JustRL's steps
COMMON = f"""--tiny --engine transformers --data lab/runs/complexity/problems.jsonl
 --token_budget {BUDGET} --warmup_steps 2 --eval_samples 2 --save_every 0"""
# The batch of the systems in the embedded world: 128 responses.
BATCH = "--prompts_per_step 16 --samples_per_prompt 8"
HALF = STEPS // 2
FEWER = dict(samples_per_prompt=16, prompts_per_step=8)

BASELINE = "JustRL"


@dataclass(frozen=True)
class Arm:
    """Flags for lab/table1.py, how many techniques they are, and the functions that make them."""

    flags: str
    techniques: int
    code: tuple = ()  # functions, beside the flags, that only this arm needs
    kind: str = "technique"


def stages(*rows: dict) -> str:
    return shlex.quote(json.dumps(list(rows)))


STAGES = (
    techniques.Stage,
    techniques.stages_text,
    techniques.read_stages,
    techniques.stage_config,
    techniques.stage_at,
    techniques.enter_stage,
    techniques.stage_problems,
)
ENTROPY = (techniques.entropy_coefficient,)
TARGET = (*ENTROPY, techniques.adapt_entropy, techniques.adapt_entropy_coefficient)
REFERENCE = (losses.kl_penalty, techniques.reset_reference, techniques.blend)
COSINE = (techniques.shape_reward, techniques.cosine_length_reward)
TEMPERATURE = (*STAGES, techniques.set_temperature, techniques.diversity)
RESCUE = (techniques.remember, techniques.rescue)
HINTS = (*STAGES, techniques.with_hints, techniques.chain_solution)
TOKENS = (techniques.normalize_over_tokens, techniques.icepop_importance, techniques.icepop_M)

ARMS = {
    BASELINE: Arm(BATCH, 1, kind="baseline"),
    "JustRL without clip-higher": Arm(f"{BATCH} --clip_high 0.2", 0),
    # One technique more. Values are those of the systems that have it, where they make sense here.
    "EC entropy bonus": Arm(f"{BATCH} --entropy_coef 1e-3", 2, ENTROPY),
    "EC entropy target": Arm(f"{BATCH} --entropy_target 0.3 --entropy_step 1e-3", 2, TARGET),
    "THP n 8 to 16": Arm(f"{BATCH} --stages {stages({'until': HALF}, FEWER)}", 2, STAGES),
    "RKL KL, hard resets": Arm(f"{BATCH} --kl_coefficient 1e-3 --reset_every 4", 2, REFERENCE),
    "LC overlong penalty": Arm(f"{BATCH} --overlong_penalty", 2),
    "LC cosine, cycled": Arm(
        f"{BATCH} --wrong_reward 0 --truncated_scale 0 --cosine_weight 0.1 --cosine_on 2 "
        f"--cosine_off 4",
        2,
        COSINE,
    ),
    "LC and ST caps 32 to 64": Arm(
        f"{BATCH} --stages {stages({'until': HALF, 'max_response_tokens': 32}, {})}", 3, STAGES
    ),
    "AT adaptive temperature": Arm(
        f"{BATCH} --adaptive_temperature --stages {stages({'until': HALF}, {})}", 2, TEMPERATURE
    ),
    "RR rollout rescue": Arm(f"{BATCH} --rollout_rescue", 2, RESCUE),
    "DS resample": Arm(f"{BATCH} --dynamic_sampling resample", 2, (prorl.mixed_groups,)),
    "DS substitute": Arm(
        f"{BATCH} --dynamic_sampling substitute", 2, (techniques.substituted_groups,)
    ),
    "ST hints 50 % to 25 %": Arm(
        f"{BATCH} --stages {stages({'until': HALF, 'hint_share': 0.5}, {'hint_share': 0.25})}",
        2,
        HINTS,
    ),
    # In the place of GRPO's advantage or loss: as many techniques as JustRL has, or one fewer.
    "pass@4 training": Arm(
        f"{BATCH} --advantage pass@k", 1, (techniques.pass_at_k_advantages,), "instead"
    ),
    "MaxRL": Arm(
        f"{BATCH} --advantage maxrl --wrong_reward 0", 1, (techniques.maxrl_advantages,), "instead"
    ),
    "REINFORCE, no ratio, no clip": Arm(
        f"{BATCH} --loss reinforce", 0, (techniques.reinforce_loss,), "instead"
    ),
}
SYSTEMS = {
    "still-3": REFERENCE,
    "deepscaler": (*STAGES, *ENTROPY, losses.kl_penalty),
    "fastcurl": (*STAGES, *ENTROPY, losses.kl_penalty),
    "prorl-v1": (*STAGES, *REFERENCE, techniques.shape_reward, prorl.mixed_groups),
    "e3": (*STAGES, prorl.mixed_groups),
    "polaris": (*TEMPERATURE, *RESCUE, techniques.substituted_groups),
    "prorl-v2": (*REFERENCE, *COSINE, *TOKENS, prorl.mixed_groups),
    "questa": (*HINTS, prorl.mixed_groups),
    "brorl": (*REFERENCE, *COSINE, *TOKENS, prorl.mixed_groups),
}
ARMS |= {
    name: Arm(f"--row {name} --steps {STEPS}", len(systems.TICKS[name].split()), code, "system")
    for name, code in SYSTEMS.items()
}


def command(name: str, seed: int) -> list[str]:
    """An arm's command line, behind `python -m`."""
    folder = RUNS / "".join(c if c.isalnum() else "-" for c in name) / f"seed{seed}"
    words = [*shlex.split(COMMON), *shlex.split(ARMS[name].flags), "--eval_every", "1000000"]
    if "reset_patience" in systems.ROWS.get(name, {}):
        words[-1] = "2"  # it decides by evaluations, which cost no sampled tokens
    out = str(folder.relative_to(ROOT))
    return ["lab.table1", *words, "--seed", str(seed), "--out", out]


# --- run ---


def run_all(seeds: int) -> None:
    """Run every arm of every seed that is not done yet, one after the other."""
    RUNS.mkdir(parents=True, exist_ok=True)
    rows = [
        json.dumps({"problem": problem.text, "answer": problem.answer})
        for problem in load_problems("tiny:train/mixed")[:PROBLEMS]
    ]
    (RUNS / "problems.jsonl").write_text("\n".join(rows) + "\n")
    wanted = [(name, seed) for seed in range(seeds) for name in ARMS]
    for number, (name, seed) in enumerate(wanted, 1):
        words = command(name, seed)
        folder = ROOT / words[-1]
        if (folder / "done.json").exists():
            continue
        print(f"{number} of {len(wanted)}: {name}, seed {seed}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        sys.argv = words
        config = table1.command_line()
        log = io.StringIO()
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            table1.main(config)
        record = measure(folder)
        if record["sampled_tokens"] < BUDGET:  # Ctrl-C or SIGTERM ended it, and it has saved
            sys.exit("lab.complexity: stopped; the same command goes on.")
        (folder / "done.json").write_text(json.dumps(record) + "\n")


def measure(folder: Path) -> dict:
    """What a run came to: its last accuracy, the entropy of its last quarter, its costs."""
    rows = read_jsonl(folder / "metrics.jsonl")
    steps = [row for row in rows if row["step"] > 0]
    late = steps[-max(1, len(steps) // 4) :]
    return {
        "accuracy": steps[-1].get("eval_accuracy", math.nan),
        "entropy": round(fmean(row["entropy"] for row in late), 6),
        "steps": len(steps),
        "sampled_tokens": steps[-1]["sampled_tokens"],
    }


def collect() -> dict:
    """results.json: commands and measures of every run that is done."""
    records = []
    for seed in range(100):
        for name in ARMS:
            words = command(name, seed)
            path = ROOT / words[-1] / "done.json"
            if path.exists():
                line = "-m " + shlex.join(words)
                record = {"arm": name, "seed": seed, "command": line}
                records.append(record | json.loads(path.read_text()))
    return {"budget": BUDGET, "runs": records}


# --- judge ---

RULE = """For each seed, an arm's last held-out accuracy minus JustRL's is its gain. Its interval
comes from an analysis of variance of all accuracies by arm and seed: what neither explains is
noise, of one size for all arms. The intervals hold at 95 % for all arms together, 1 - 0.05 / arms
for each (Bonferroni).

Three points are worth talking about. An arm is "better" if its interval is above zero, "worse" if
below, "no difference" if it lies within three points of zero, else "undecided". Complexity is
necessary here if an arm of more techniques than JustRL is better by three points on average, and
not necessary if the whole interval of each lies below three points; else the data do not decide."""
WORTH = 0.03


@dataclass(frozen=True)
class Gain:
    arm: str
    mean: float
    low: float
    high: float
    verdict: str


def whole_seeds(result: dict) -> dict[int, dict[str, float]]:
    """{seed: {arm: accuracy}} of the seeds that all arms have done."""
    seen: dict[int, dict[str, float]] = {}
    for run in result["runs"]:
        seen.setdefault(run["seed"], {})[run["arm"]] = run["accuracy"]
    return {
        seed: accuracies for seed, accuracies in seen.items() if accuracies.keys() == ARMS.keys()
    }


def gains(result: dict) -> list[Gain]:
    """The gain of each arm over JustRL, by RULE. Raises Refused without two whole seeds."""
    seen = whole_seeds(result)
    if len(seen) < 2:
        raise Refused("it takes two seeds that all arms have done to tell a gain from noise")
    by_arm = {name: fmean(one[name] for one in seen.values()) for name in ARMS}
    by_seed = {seed: fmean(one.values()) for seed, one in seen.items()}
    level = fmean(by_seed.values())
    noise = sum(
        (one[name] - by_arm[name] - by_seed[seed] + level) ** 2
        for seed, one in seen.items()
        for name in ARMS
    )
    freedom = (len(ARMS) - 1) * (len(seen) - 1)
    half = stats.t.ppf(1 - 0.05 / (len(ARMS) - 1) / 2, freedom)
    half *= math.sqrt(2 * noise / freedom / len(seen))
    found = []
    for name in ARMS:
        mean = by_arm[name] - by_arm[BASELINE]
        if name != BASELINE:
            judged = verdict(mean - half, mean + half)
            found.append(Gain(name, mean, mean - half, mean + half, judged))
    return found


def verdict(low: float, high: float) -> str:
    if low > -WORTH and high < WORTH:
        return "no difference"
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    return "undecided"


def answer(found: list[Gain]) -> str:
    """RULE's last sentence."""
    more = [one for one in found if ARMS[one.arm].techniques > ARMS[BASELINE].techniques]
    needed = [one.arm for one in more if one.verdict == "better" and one.mean >= WORTH]
    if needed:
        return f"necessary here: {', '.join(needed)}"
    if more and all(one.high < WORTH for one in more):
        return "not necessary here: no arm gains three points"
    return "undecided: some interval still reaches three points"


def slope(result: dict) -> tuple[float, float, float]:
    """Accuracy by number of techniques, a line through all arms of each seed: the mean slope over
    the seeds and its 95 % t interval, in accuracy a technique."""
    counts = [arm.techniques for arm in ARMS.values()]
    slopes = [
        linear_regression(counts, [one[name] for name in ARMS]).slope
        for one in whole_seeds(result).values()
    ]
    half = stats.t.ppf(0.975, len(slopes) - 1) * stdev(slopes) / math.sqrt(len(slopes))
    return fmean(slopes), fmean(slopes) - half, fmean(slopes) + half


def lines_of(code: tuple) -> int:
    """Lines of code of some functions: those that hold more than a comment or a docstring."""
    return sum(len(code_lines(inspect.getsource(one))) for one in dict.fromkeys(code))


def code_lines(source: str) -> set[int]:
    """Numbers of the lines of code. A string that stands alone, such as a docstring, is none."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines, at_start = set(), True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        alone = token.type == tokenize.STRING and at_start
        if token.type not in (*skipped, tokenize.ENDMARKER) and not alone:
            lines.update(range(token.start[0], token.end[0] + 1))
        at_start = token.type in skipped
    return lines


def table(result: dict, found: list[Gain]) -> str:
    """One row an arm: techniques, lines of code, accuracy, gain, entropy, steps, sampled tokens."""
    lines = [
        "| arm | techniques | lines | accuracy | gain over JustRL | verdict | entropy | steps "
        "| tokens |",
        "|---|---:|---:|---:|---|---|---:|---:|---:|",
    ]
    by_name = {one.arm: one for one in found}
    for name, arm in ARMS.items():
        runs = [run for run in result["runs"] if run["arm"] == name]
        means = {
            key: fmean(run[key] for run in runs)
            for key in ("accuracy", "entropy", "steps", "sampled_tokens")
        }
        one = by_name.get(name)
        gain = f"{one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f})" if one else ""
        lines.append(
            f"| {name} | {arm.techniques} | {lines_of(arm.code)} | {means['accuracy']:.3f} "
            f"| {gain} | {one.verdict if one else ''} | {means['entropy']:.3f} "
            f"| {means['steps']:.1f} | {means['sampled_tokens']:,.0f} |"
        )
    return "\n".join(lines)


WORDS = {
    "technique": "JustRL and a technique, or without its own",
    "instead": "another advantage or loss",
    "system": "a system",
}
COLOURS = dict(zip(WORDS, plot.COLOURS, strict=False))
MARKERS = dict(zip(WORDS, "oDs", strict=True))


def draw(found: list[Gain], result: dict, out: Path) -> None:
    """Write the figure: gain against number of techniques, an arm a mark, with its interval."""
    with plt.rc_context(plot.STYLE | {"font.size": 8}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 6), layout="constrained")
        groups: dict[int, list[Gain]] = {}
        for place, one in enumerate(sorted(found, key=lambda one: one.mean)):
            mark = dict(color=COLOURS[ARMS[one.arm].kind], marker=MARKERS[ARMS[one.arm].kind])
            right.plot([one.low, one.high], [place, place], color=mark["color"])
            right.plot(one.mean, place, **mark)
            groups.setdefault(ARMS[one.arm].techniques, []).append(one)
        for count, members in groups.items():
            for place, one in enumerate(members):  # side by side
                mark = dict(color=COLOURS[ARMS[one.arm].kind], marker=MARKERS[ARMS[one.arm].kind])
                x = count + (place - (len(members) - 1) / 2) * min(0.15, 0.8 / len(members))
                left.plot([x, x], [one.low, one.high], color=mark["color"])
                left.plot(x, one.mean, **mark)
        for kind, words in WORDS.items():
            mark = dict(color=COLOURS[kind], marker=MARKERS[kind], linestyle="")
            left.plot([], [], label=words, **mark)
        left.legend()
        left.axhspan(-WORTH, WORTH, color="0.92", zorder=0)
        right.axvspan(-WORTH, WORTH, color="0.92", zorder=0)
        left.axhline(0, color="black", linewidth=0.8)
        right.axvline(0, color="black", linewidth=0.8)
        left.set(xlabel="techniques", ylabel="gain in accuracy over JustRL")
        right.set(xlabel="gain in accuracy over JustRL")
        right.set_yticks(range(len(found)), [o.arm for o in sorted(found, key=lambda o: o.mean)])
        mean, low, high = slope(result)
        figure.suptitle(
            f"Is complexity necessary? {answer(found).capitalize()}\n"
            f"{len(whole_seeds(result))} paired seeds, {result['budget']:,} sampled tokens a run; "
            f"a technique more: {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        )
        figure.savefig(out, dpi=130)
        plt.close(figure)


def judge() -> None:
    """Write results.json from the runs there are, if there are any, and figure.png; print all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "results.json"
    result = collect()
    if result["runs"]:
        path.write_text(json.dumps(result, indent=1) + "\n")
    elif path.exists():
        result = json.loads(path.read_text())
    seeds = whole_seeds(result)
    result["runs"] = [run for run in result["runs"] if run["seed"] in seeds]
    found = gains(result)
    draw(found, result, RESULTS / "figure.png")
    mean, low, high = slope(result)
    text = f"{table(result, found)}\n\n"
    text += f"Is complexity necessary? {answer(found).capitalize()}.\n\n"
    text += f"A technique more: {mean:+.4f} of accuracy "
    text += f"(95 % interval {low:+.4f} to {high:+.4f}).\n\n{RULE}\n"
    (RESULTS / "table.md").write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.complexity",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=("list", "run", "judge"), default="list")
    parser.add_argument("--seeds", type=int, default=3, help="paired seeds, two at least (3)")
    args = parser.parse_args()
    if args.seeds < 2:
        sys.exit("lab.complexity: it takes two --seeds at least")
    if args.what == "list":
        for name in ARMS:
            print(f"{name}\n    python -m {shlex.join(command(name, 0))}")
        return
    try:
        if args.what == "run":
            run_all(args.seeds)
        judge()
    except (Refused, OSError) as error:
        sys.exit(f"lab.complexity: {error}")


if __name__ == "__main__":
    main()
