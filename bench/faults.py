"""What becomes of a run when its machine fails: each fault, all three recipes, one table.

    python -m bench.faults                      everything, into docs/faults.md: half an hour
    python -m bench.faults --recipes justrl --kills 3 --out /tmp/faults.md        a part of it

A fault is put into a tiny run of 8 steps with a checkpoint every 2, and then the same command is
given again without it. The fault has to end in one sentence (or in the death it is about), and the
metrics in the end have to equal those of a run that nothing happened to. It needs Linux, and the
right to mount a file system (root, or `unshare -rm python -m bench.faults`).
"""

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bench.common import ROOT
from trainer.run.files import read_jsonl

STEPS = 8
FLAGS = (
    "--tiny --prompts_per_step 4 --samples_per_prompt 4 --eval_samples 2 --eval_every 2 "
    "--save_every 2 --steps 8"
)
OWN = {
    "justrl": [],
    # A world where most groups are mixed.
    "prorl": ["--reset_every", "3", "--model", "tiny:aligned", "--data", "tiny:train/mixed"],
    "liteppo": [],
}
INF = float("inf")


class Bench:
    """The faults of one recipe, in a folder of their own."""

    def __init__(self, recipe: str, folder: Path):
        self.recipe, self.folder = recipe, folder
        held_out = folder / "held-out.jsonl"
        rows = [{"problem": f"{n}+5=?", "answer": str(n + 5)} for n in range(1, 5)]
        held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.command = [f"{recipe}.py", *FLAGS.split(), *OWN[recipe], "--eval_data", str(held_out)]
        start = time.perf_counter()
        done = self.run(folder / "whole")
        assert done[0] == 0, done[1]
        self.seconds = time.perf_counter() - start
        self.metrics = timeless(folder / "whole")

    def start(self, out: Path, *flags: str, before: Callable | None = None) -> int:
        """Start the script in a fork of this process, which has imported everything. Its pid.

        before: called in the fork, ahead of the script: it puts the fault in.
        """
        sys.stdout.flush()
        if pid := os.fork():
            return pid
        for number, name in enumerate(("/dev/null", self.folder / "log", self.folder / "log")):
            flags_of_file = os.O_RDWR | os.O_CREAT | (0 if number == 2 else os.O_TRUNC)
            os.dup2(os.open(name, flags_of_file | os.O_APPEND), number)
        sys.argv, status = [*self.command, "--out", str(out), *flags], 0
        try:
            if before:
                before()
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int | None) else 1
            if status and not isinstance(end.code, int):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status or 0)

    def run(self, out: Path, *flags, before: Callable | None = None) -> tuple[int, str]:
        """(exit status, minus a signal's number; what the script printed)"""
        status = os.waitpid(self.start(out, *flags, before=before), 0)[1]
        return os.waitstatus_to_exitcode(status), (self.folder / "log").read_text()

    def ends_alike(self, out: Path) -> str:
        """Give the command again and compare the metrics with those of the whole run."""
        status, log = self.run(out)
        if status != 0:
            return f"FAILED to continue: {last_line(log)}"
        return "equal metrics" if timeless(out) == self.metrics else "FAILED: OTHER METRICS"

    # --- the faults ---

    def kills(self, count: int) -> str:
        """SIGKILL at random moments, each followed by the same command."""
        out, rng, hits = self.folder / "killed", random.Random(0), 0
        for _ in range(count):
            # Early in the run, or it would be over before the last kill.
            pid = self.start(out)
            deadline = time.monotonic() + rng.uniform(0.2, 0.5) * self.seconds
            while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
            try:
                os.kill(pid, signal.SIGKILL)
                hits += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
            except (ProcessLookupError, ChildProcessError):  # it had already ended
                shutil.rmtree(out)
        return f"{hits} kills, {self.ends_alike(out)}"

    def kill_inside(self, where: str) -> str:
        out = self.folder / "inside"
        shutil.rmtree(out, ignore_errors=True)
        status, log = self.run(out, before=KILLS[where])
        if status != -signal.SIGKILL:
            return f"FAILED to kill: {last_line(log)}"
        return self.ends_alike(out)

    def full_disk(self) -> str:
        """A disk that is too small by ever less: every kind of write meets its end once."""
        need = sum(path.stat().st_size for path in (self.folder / "whole").rglob("*"))
        results = set()
        for size in (4, 8, 16, 64, 256, need // 3000, need // 2000, need // 1200, need // 1030):
            mount = self.folder / "disk"
            mount.mkdir(exist_ok=True)
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", mount], check=True
            )
            try:
                status, log = self.run(mount / "run")
                if status != 0 and not is_sentence(log):
                    results.add(f"FAILED with {size} KiB: {last_line(log)}")
                subprocess.run(["mount", "-o", "remount,size=1g", mount], check=True)
                results.add(self.ends_alike(mount / "run"))
            finally:
                subprocess.run(["umount", mount], check=True)
        return f"9 sizes, one sentence each, then {', '.join(sorted(results))}"

    def read_only(self) -> str:
        mount = self.folder / "read-only"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", mount], check=True)
        try:
            return self.sentence(mount)
        finally:
            subprocess.run(["umount", mount], check=True)

    def corrupted(self, how: str) -> str:
        out = self.folder / "corrupted"
        shutil.rmtree(out, ignore_errors=True)
        self.run(out, "--steps", "6")
        folder = max((out / "checkpoints").glob("step_??????"))
        name, _, action = how.partition(" ")
        path = folder / name
        if action == "gone":
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data[: len(data) // 2] if action == "torn" else data)
        result = self.ends_alike(out)
        told = "is damaged" in (self.folder / "log").read_text()
        return result if told else f"FAILED to say so; {result}"

    def sentence(self, out: Path, *flags: str, before: Callable | None = None) -> str:
        status, log = self.run(out, *flags, before=before)
        if status == 0:
            return "FAILED: nothing was said"
        return f"“{last_line(log)}”" if is_sentence(log) else f"FAILED: {last_line(log)}"

    def nan_weights(self) -> str:
        model = self.folder / "nan"
        shutil.copytree(ROOT / "tiny" / "models" / "base", model)
        from safetensors.torch import load_file, save_file

        weights = load_file(model / "model.safetensors")
        weights["model.norm.weight"][0] = float("nan")
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        return self.sentence(self.folder / "nan-run", "--model", str(model))

    def infinite_rewards(self) -> str:
        return self.sentence(self.folder / "infinite", before=reward_infinity)

    def second_run(self) -> str:
        out = self.folder / "two"
        pid = self.start(out)
        while not (out / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(pid, signal.SIGSTOP)
        result = self.sentence(out)
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
        alike = timeless(out) == self.metrics
        return result if alike else f"FAILED: OTHER METRICS; {result}"

    def dead_rank(self) -> str:
        """One of two ranks is killed, in processes of their own under torchrun."""
        results = []
        for out in (self.folder / "ranks-whole", self.folder / "ranks"):
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command = [*launcher, "--nproc-per-node", "2", *self.command, "--out", str(out)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            if out.name == "ranks":
                while not (out / "checkpoints" / "step_000004").exists():
                    time.sleep(0.05)
                os.kill(rank_of(process.pid), signal.SIGKILL)
                process.communicate(timeout=300)
                if process.returncode == 0:
                    return "FAILED: nothing was said"
                process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
            error = process.communicate(timeout=600)[1]
            if process.returncode != 0:
                return f"FAILED: {error.decode()[-300:]}"
            results.append(timeless(out))
        return "all ranks end; " + (
            "equal metrics" if results[0] == results[1] else "FAILED: OTHER METRICS"
        )


def rank_of(launcher: int) -> int:
    """The pid of the last process that torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return int(children[-1])


def timeless(out: Path) -> list[dict]:
    rows = read_jsonl(out / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("seconds_")} for row in rows]


def last_line(log: str) -> str:
    line = (log.strip().splitlines() or ["nothing"])[-1]
    return line.replace("|", "/").replace(tempfile.gettempdir(), "...")[:300]


def is_sentence(log: str) -> bool:
    return "Traceback" not in log and ".py: " in last_line(log)


def kill_at(owner: str, name: str, call: int, after: bool = False) -> Callable:
    """A `before` that kills the process at the given call of a function of a module or class."""

    def before():
        module, _, attribute = owner.partition(":")
        holder = __import__(module, fromlist=["_"])
        holder = getattr(holder, attribute) if attribute else holder
        original, calls = getattr(holder, name), []

        def deadly(*arguments, **options):
            calls.append(1)
            if len(calls) == call and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **options)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(holder, name, deadly)

    return before


# Moments inside a save (the second and third one) and inside a reset.
KILLS = {
    "before the optimizer's file": kill_at("trainer.run.checkpoint", "save_file", 2),
    "after the optimizer's file": kill_at("trainer.run.checkpoint", "save_file", 2, after=True),
    "before the new folder's name": kill_at("pathlib:Path", "rename", 2),
    "after the new folder's name": kill_at("pathlib:Path", "rename", 2, after=True),
    "inside a reset": kill_at("trainer.policy.policy:Policy", "copy_from", 1, after=True),
}


def reward_infinity() -> None:
    import losses

    original = losses.advantages

    def advantages(rewards_P_G, **options):
        rewards_P_G[0, 0] = INF
        return original(rewards_P_G, **options)

    losses.advantages = advantages


def faults(recipe: str, kills: int) -> dict[str, Callable[[Bench], str]]:
    moments = list(KILLS)
    if recipe != "prorl":
        moments.remove("inside a reset")
    damages = ("model.safetensors flipped", "model.safetensors torn")
    damages += ("training/optimizer.safetensors torn", "state.json gone", "config.json torn")
    return {
        f"SIGKILL at {kills} random moments": lambda bench: bench.kills(kills),
        **{f"SIGKILL {m}": lambda bench, m=m: bench.kill_inside(m) for m in moments},
        "full disk": Bench.full_disk,
        "read-only folder": Bench.read_only,
        **{f"newest checkpoint: {d}": lambda bench, d=d: bench.corrupted(d) for d in damages},
        "NaN in the model's weights": Bench.nan_weights,
        "an infinite reward": Bench.infinite_rewards,
        "a second run on the folder": Bench.second_run,
        "one of 2 ranks killed": Bench.dead_rank,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=OWN, default=list(OWN))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", default="", help="only faults with this in their name")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "faults.md")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    if len(arguments.recipes) == 1:
        import_everything()
        (recipe,) = arguments.recipes
        columns = {recipe: column(recipe, arguments)}
    else:
        columns = columns_at_once(arguments)
        arguments.out.write_text(page(columns))
    sys.exit(any("FAILED" in cell for cells in columns.values() for cell in cells.values()))


def column(recipe: str, arguments) -> dict[str, str]:
    """{fault: what became of it} for one recipe; written to --out after each fault."""
    cells = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(recipe, Path(folder))
        for name, fault in faults(recipe, arguments.kills).items():
            if arguments.only in name:
                cells[name] = fault(bench)
                print(f"{recipe}: {name}: {cells[name]}", flush=True)
                as_json = arguments.out.suffix == ".json"
                text = json.dumps({recipe: cells}) if as_json else page({recipe: cells})
                arguments.out.write_text(text)
    return cells


def columns_at_once(arguments) -> dict[str, dict[str, str]]:
    """Each recipe in a process of its own."""
    command = [sys.executable, "-m", "bench.faults", "--only", arguments.only]
    command += ["--kills", str(arguments.kills)]
    columns, processes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in arguments.recipes:
            out = Path(folder, f"{recipe}.json")
            processes[out] = subprocess.Popen([*command, "--recipes", recipe, "--out", str(out)])
        for out, process in processes.items():
            process.wait()
            columns |= json.loads(out.read_text())
    return columns


def import_everything() -> None:
    """What the scripts import, so that a fork of this process starts at once."""
    import torch

    torch.set_num_threads(1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    import matplotlib.pyplot  # noqa: F401
    import torch.utils.tensorboard
    from transformers.models.qwen2 import modeling_qwen2  # noqa: F401

    import losses  # noqa: F401
    import rewards  # noqa: F401
    import trainer.run.run
    import trainer.sources.load  # noqa: F401
    from tiny.world import problems  # noqa: F401
    from trainer.sampler import engine as rollout  # noqa: F401


def page(columns: dict[str, dict[str, str]]) -> str:
    names = dict.fromkeys(name for cells in columns.values() for name in cells)
    lines = [
        "# Faults",
        "",
        "Written by `python -m bench.faults` (CPU, the embedded world, 8 steps, a checkpoint every",
        "2). Each fault is put into a run, and then the same command is given again without it.",
        "*Equal metrics*: metrics.jsonl equals that of an undisturbed run in every number but the",
        "seconds. A sentence in quotes is the last line that the run printed, and its exit status",
        "was not 0. The verifier runs inside the trainer: there is no reward worker to kill.",
        "",
        f"| fault | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for name in names:
        lines.append(f"| {name} | {' | '.join(c.get(name, '') for c in columns.values())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
