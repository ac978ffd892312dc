"""Carry out an experiment: the scripts as subprocesses, and what they measured as a file.

A killed experiment goes on with the same command: finished runs are kept, and a cut one resumes
exactly. Runs are under lab/runs, which git ignores. What they measured goes into results.json, with
the curves, so that figures and verdicts can be made again without the runs.
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
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

from lab.papers import COMMON, LAST, Experiment
from tools.panels import is_number
from tools.plot import read_metrics, resets
from trainer.errors import Refused

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
}
LIVE = set()  # processes running now


@dataclass(frozen=True)
class Run:
    """One arm with one seed: its folder and the commands that fill it, one after the other."""

    arm: str
    seed: int
    folder: Path
    commands: list[list[str]]  # without the interpreter
    checkpoint: Path  # the last one: there when the script has done all its steps


def plan(experiment: Experiment, runs: Path, seeds: dict[str, int], steps: int) -> list[Run]:
    """All runs, seed by seed, so that an experiment cut short has whole pairs.

    seeds: {arm: how many}. Every arm begins with seed 0, so that arms share all they can.
    """
    return [
        plan_run(experiment, name, command, runs, seed, steps)
        for seed in range(max(seeds.values()))
        for name, command in experiment.commands().items()
        if seed < seeds[name]
    ]


def plan_run(
    experiment: Experiment, name: str, command: str, runs: Path, seed: int, steps: int
) -> Run:
    folder = runs / re.sub(r"[^\w.]+", "-", name) / f"seed{seed}"
    places = {"run": folder, "steps": steps, "middle": max(1, steps // 2)}
    script, *own = shlex.split(command)
    often = ["--steps", steps, "--eval_every", max(1, steps // 8)]
    often += ["--save_every", max(1, steps // 2)]
    commands = [[script, *shlex.split(COMMON), *own, *often, "--seed", seed, "--out", folder]]

    few = ["--limit", 8] if steps != experiment.steps else []  # a try-out
    flags = [*shlex.split(experiment.evaluate), *few, "--engine", "transformers", "--seed", seed]
    for point, model in experiment.points.items():
        commands.append(["evaluate.py", model.format(**places), *flags, "--out", folder / point])
    if "before" in experiment.points:
        compared = [folder / point for point in ("before", "after", "midway")]
        commands.append(["evaluate.py", "--compare", *compared, "--out", folder / "compare"])
    words = [[str(word) for word in command] for command in commands]
    return Run(name, seed, folder, words, Path(LAST.format(**places)))


def written(command: list[str]) -> str:
    """A command as results.json keeps it: to be typed behind `python` in the repository."""
    return shlex.join(command).replace(f"{ROOT}/", "")


def finished(run: Run) -> dict[str, float]:
    """{command: seconds it took} of the commands of a run that are done."""
    path = run.folder / "done.json"
    return json.loads(path.read_text()) if path.exists() else {}


def carry_out(run: Run) -> None:
    """Run what is not done yet. Raises Refused with the script's last words when one fails."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "log.txt", "a") as log:
        # The subprocess holds the lock as well, so that one that outlived a killed lab is waited
        # for, not doubled.
        fcntl.flock(log, fcntl.LOCK_EX)
        for command in run.commands:
            if (line := written(command)) in finished(run):
                continue
            start = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *command],
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
            if code or not run.checkpoint.is_dir():  # it failed, or was stopped
                last = (run.folder / "log.txt").read_text().strip().splitlines()[-1:] or ["nothing"]
                raise Refused(
                    f"{line} did not finish; the last of {run.folder}/log.txt: {last[0][-300:]}"
                )
            done = finished(run) | {line: round(time.perf_counter() - start, 1)}
            aside = run.folder / "done.tmp"
            aside.write_text(json.dumps(done, indent=1))
            aside.replace(run.folder / "done.json")


def carry_out_all(name: str, runs: list[Run], jobs: int) -> None:
    """Run all of them, `jobs` at a time. A failure or an interrupt stops the others for now."""
    build_missing_models(runs)
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


def build_missing_models(runs: list[Run]) -> None:
    """Build the sizes that are not shipped once, before two runs would build them side by side."""
    words = {word for run in runs for word in run.commands[0]}
    if small := sorted(word for word in words if re.fullmatch(r"tiny:\S+-small", word)):
        from tiny.pretrain import base_model  # here: torch takes seconds to import

        for word in small:
            base_model(word.removeprefix("tiny:"))


# --- what a run measured ---


def measures(run: Run, steps: int) -> dict[str, float]:
    """Metrics as means over the last quarter of the steps, and what evaluate.py found.

    grad_growth is the log of the gradient norm there over that in the first quarter. rise@K and
    final_... come from evaluate.py.
    """
    rows, quarter = read_metrics(run.folder), max(1, steps // 4)
    late = [row for row in rows if row["step"] > steps - quarter]
    early = [row for row in rows if 0 < row["step"] <= quarter]
    keys = {key for row in late for key in row if is_number(row[key])} - {"step"}
    result = {
        key: fmean(row[key] for row in late if key in row)
        for key in sorted(keys)
        if not key.startswith("seconds")
    }
    ratio = result["grad_norm"] / max(1e-12, fmean(row["grad_norm"] for row in early))
    result["grad_growth"] = math.log(max(1e-12, ratio))
    return result | evaluated(run.folder)


def evaluated(folder: Path) -> dict[str, float]:
    """What evaluate.py measured of a run: the rises, if it compared, else the last checkpoint."""
    result = {}
    if (path := folder / "compare" / "compare.json").exists():
        compared = json.loads(path.read_text())
        for task, values in compared["tasks"].items():
            level = task.removeprefix("tiny/")
            result[f"rise@1 {level}"] = values["rise_1"]
            result[f"rise@128 {level}"] = values["rise_max"]
            result[f"before@128 {level}"] = values["pass_max"][0]
            result[f"after@128 {level}"] = values["pass_max"][1]
            result[f"regime {level}"] = values["regime"]
        # ProRL's question as one number: does a weak start go with a strong gain?
        if compared["spearman"]["rise_max"] is not None:
            result["weak_start_strong_gain"] = -compared["spearman"]["rise_max"]
    elif (path := folder / "after" / "eval.json").exists():
        for name, bench in json.loads(path.read_text())["benchmarks"].items():
            level = name.removeprefix("tiny/")
            result[f"final_accuracy {level}"] = bench["robust"]["1"][0]
            result[f"final_strict {level}"] = bench["strict"]["1"][0]
            result[f"final_endless {level}"] = bench["truncated"]
    return result


def curves(run: Run, experiment: Experiment) -> dict[str, list]:
    """{metric: [[step, value], ...]} of what the figure draws; "resets" has steps alone."""
    rows = read_metrics(run.folder)
    result = {
        metric: [
            [row["step"], float(f"{row[metric]:.5g}")] for row in rows if is_number(row.get(metric))
        ]
        for metric in experiment.panels
    }
    return result | {"resets": sorted(resets([rows]))}


def pass_at_k(run: Run, experiment: Experiment) -> dict[str, dict]:
    """{point: {task: {"pass": {k: share}, "solved": pass@1 of each problem}}}."""
    result = {}
    for point in experiment.points if experiment.tasks else ():
        seen = json.loads((run.folder / point / "eval.json").read_text())["tasks"]
        result[point] = {
            task: {
                "pass": {k: value[0] for k, value in seen[task]["robust"].items()},
                "solved": seen[task]["solved"],
            }
            for task in experiment.tasks
        }
    return result


def collect(name: str, experiment: Experiment, runs: list[Run], steps: int) -> dict:
    """results.json: what was run and when, and what each run measured. Verdicts follow from it."""
    records = []
    for run in runs:
        done = finished(run)
        records.append(
            {
                "arm": run.arm,
                "seed": run.seed,
                "commands": {line: done[line] for line in map(written, run.commands)},
                "measures": measures(run, steps),
                "curves": curves(run, experiment),
                "pass_at_k": pass_at_k(run, experiment),
            }
        )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"experiment": name, "date": today, "steps": steps, "runs": records}
