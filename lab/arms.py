"""Carry out an experiment: the scripts as subprocesses, and what they measured as a file.

The same command continues a killed experiment: finished runs are kept, and an interrupted one
resumes exactly. Runs are under lab/runs, which git ignores. What they measured goes into
results.json, with the curves, so that figures and verdicts can be made again without the runs. Runs
whose commands are in results.json are not repeated, so a new arm costs its own runs alone.
"""

import datetime
import fcntl
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

from lab.papers import EQUAL, Experiment
from tools.evaluation.comparison import compare, read_evaluation
from tools.evaluation.statistics import spearman
from tools.panels import is_number
from tools.plot import read_metrics, resets
from trainer.errors import Refused
from trainer.run.files import read_jsonl, write_json

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | dict(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
LIVE = set()  # processes running now


@dataclass(frozen=True)
class Run:
    """One arm with one seed: its folder and the commands that fill it, one after the other."""

    arm: str
    seed: int
    folder: Path
    commands: list[list]  # each with its interpreter


def plan(experiment: Experiment, runs: Path, seeds: dict[str, int], steps: int) -> list[Run]:
    """All runs, seed by seed, so that an experiment cut short has whole pairs.

    seeds: {arm: how many}. Every arm begins with seed 0, so that arms share all they can.
    """
    return [
        plan_run(experiment, name, command, runs, seed, steps)
        for seed in range(max(seeds.values()))
        for name, command in experiment.arms.items()
        if seed < seeds[name]
    ]


def plan_run(
    experiment: Experiment, name: str, command: str, runs: Path, seed: int, steps: int
) -> Run:
    folder = runs / re.sub(r"[^\w.]+", "-", name) / f"seed{seed}"
    values = {
        "run": folder,
        "steps": steps,
        "half": max(1, steps // 2),
        "eighth": max(1, steps // 8),
        "budget": experiment.budget * steps // experiment.steps,
    }
    words = shlex.split(command)
    script = 2 if words[0] == "-m" else 1
    shared = shlex.split(f"{experiment.common} {experiment.schedule}".format(**values))
    own = ["--seed", seed, "--out", folder]
    commands = [[sys.executable, *words[:script], *shared, *words[script:], *own]]

    few = ["--limit", 8] if steps != experiment.steps else []  # a try-out
    flags = [*shlex.split(experiment.evaluate), *few, "--engine", "transformers", "--seed", seed]
    for point, model in experiment.points.items():
        measure = ["evaluate.py", model.format(**values), *flags, "--out", folder / point]
        commands.append([sys.executable, *measure])
    return Run(name, seed, folder, commands)


def written(command: list) -> str:
    """A command as results.json keeps it: to be typed after `python` in the repository."""
    return shlex.join(map(str, command[1:])).replace(f"{ROOT}/", "")


def finished(run: Run) -> dict[str, float]:
    """{command: seconds it took} of the commands of a run that are done."""
    path = run.folder / "done.json"
    return json.loads(path.read_text()) if path.exists() else {}


def carry_out(run: Run) -> None:
    """Run the commands that are not done. Raises Refused with a failed one's last line of output.

    The log is locked, and the subprocess holds the lock as well. So a run that has outlived a
    killed lab is waited for and not started twice.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "log.txt", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        for command in run.commands:
            if (line := written(command)) in finished(run):
                continue
            start = time.perf_counter()
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[log.fileno()],
            )
            LIVE.add(process)
            code = process.wait()
            LIVE.discard(process)
            if code:
                last = (run.folder / "log.txt").read_text().strip().splitlines()[-1:] or ["nothing"]
                raise Refused(
                    f"{line} did not finish; the last of {run.folder}/log.txt: {last[0][-300:]}"
                )
            done = finished(run) | {line: round(time.perf_counter() - start, 1)}
            write_json(run.folder / "done.json", done)


def carry_out_all(name: str, runs: list[Run], jobs: int) -> None:
    """Run all of them, `jobs` at a time. A failure or an interrupt stops the others for now."""
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


# --- what a run measured ---


def measures(run: Run, experiment: Experiment) -> dict[str, float]:
    """Metrics as means over the last quarter of the steps, and what evaluate.py found.

    grad_growth is the log of the gradient norm's mean there over its mean in the first quarter.
    """
    rows = read_metrics(run.folder)
    last = rows[-1]["step"]
    quarter = max(1, last // 4)
    late = [row for row in rows if row["step"] > last - quarter]
    early = [row for row in rows if 0 < row["step"] <= quarter]
    keys = {key for row in late for key in row if is_number(row[key])} - {"step"}
    result = {
        key: fmean(row[key] for row in late if key in row)
        for key in sorted(keys)
        if not key.startswith("seconds")
    }
    ratio = result["grad_norm"] / max(1e-12, fmean(row["grad_norm"] for row in early))
    result["grad_growth"] = math.log(max(1e-12, ratio))
    if experiment.tokens:
        result[EQUAL] = accuracy_at(rows, experiment.tokens)
    return result | evaluated(run.folder)


def accuracy_at(rows: list[dict], tokens: int) -> float:
    """The mean held-out accuracy over the last quarter of a budget of sampled tokens."""
    spent, seen = 0, []
    for row in rows:
        spent += row.get("tokens", 0)
        if "eval_accuracy" in row and spent <= tokens:
            seen.append((spent, row["eval_accuracy"]))
    late = [accuracy for spent, accuracy in seen if spent > 0.75 * tokens]
    return fmean(late or [seen[-1][1]])


def evaluated(folder: Path) -> dict[str, float]:
    """What evaluate.py measured of the last checkpoint."""
    result = {}
    if (path := folder / "after" / "eval.json").exists():
        for name, bench in json.loads(path.read_text())["benchmarks"].items():
            level = name.removeprefix("tiny/")
            result[f"final_accuracy {level}"] = bench["robust"]["1"][0]
            if (share := repeating(path.with_name("generations.jsonl"), name)) is not None:
                result[f"final_repeats {level}"] = share
    return result


def repeating(path: Path, benchmark: str) -> float | None:
    """Of the truncated answers, the share that repeat themselves without end; None without any.

    Such an answer has, in its second half, the same two characters or more three times in a row.
    """
    loops = [
        bool(re.search(r"(.{2,}?)\1\1", answer["text"][len(answer["text"]) // 2 :], re.S))
        for record in read_jsonl(path)
        if record["benchmark"] == benchmark
        for answer in record["answers"]
        if answer["truncated"]
    ]
    return fmean(loops) if loops else None


def rises(points: dict[str, dict]) -> dict[str, float]:
    """What training changed of each task: pass@1, pass@128, and the pass@1 of single problems.

    points: the value of pass_at_k. shift@1 is the share of problems whose pass@1 rose minus the
    share of those whose pass@1 fell.
    """
    result, starts, gains = {}, [], []
    for task, before in points.get("before", {}).items():
        after, level = points["after"][task], task.removeprefix("tiny/")
        for k in ("1", "128"):
            result[f"rise@{k} {level}"] = after["pass"][k] - before["pass"][k]
        pairs = list(zip(before["solved"], after["solved"], strict=True))
        result[f"shift@1 {level}"] = fmean((new > old) - (new < old) for old, new in pairs)
        starts.append(before["pass"]["128"])
        gains.append(result[f"rise@128 {level}"])
    # ProRL's question as one number: does a weak start go with a strong gain?
    if (correlation := spearman(starts, gains)) is not None:
        result["weak_start_strong_gain"] = -correlation
    return result


def curves(run: Run, experiment: Experiment) -> dict[str, list]:
    """{metric: [[step, value], ...]} of what the figure draws; "resets" has steps alone."""
    rows, result = read_metrics(run.folder), {}
    for metric in experiment.panels:
        seen = [row for row in rows if is_number(row.get(metric))]
        result[metric] = [[row["step"], float(f"{row[metric]:.5g}")] for row in seen]
    return result | {"resets": sorted(resets([rows]))}


def pass_at_k(run: Run, experiment: Experiment) -> dict[str, dict]:
    """{point: {task: {"pass": {k: share}, "solved": pass@1 of each problem}}}.

    "after" also has the "regime" of each task, as evaluate.py --compare finds it.
    """
    if not experiment.tasks:
        return {}
    points = {point: read_evaluation(run.folder / point) for point in experiment.points}
    result = {point: {} for point in points}
    for point, task in product(points, experiment.tasks):
        seen = points[point]["tasks"][task]
        shares = {k: share for k, (share, *_) in seen["robust"].items()}
        result[point][task] = {"pass": shares, "solved": seen["solved"]}
    compared = compare([points[point] for point in ("before", "after", "midway")])["tasks"]
    for task, one in result["after"].items():
        one["regime"] = compared[task]["regime"]
    return result


def record(run: Run, experiment: Experiment) -> dict:
    """What results.json holds of a run that is done."""
    done = finished(run)
    return {
        "arm": run.arm,
        "seed": run.seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commands": {line: done[line] for line in map(written, run.commands)},
        "measures": measures(run, experiment),
        "curves": curves(run, experiment),
        "pass_at_k": pass_at_k(run, experiment),
    }


def is_record_of(record: dict | None, run: Run) -> bool:
    """Whether a record is of the run's commands, whatever the order of their flags."""
    lines = record["commands"] if record else (), map(written, run.commands)
    recorded, planned = (sorted(shlex.split(" ".join(one))) for one in lines)
    return recorded == planned
