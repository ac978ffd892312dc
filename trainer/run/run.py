"""A run seen from outside: its folder, its progress bar, its clock, and how it is stopped."""

import dataclasses
import fcntl
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from trainer.data import Problem, Rollout, fingerprint
from trainer.errors import Refused
from trainer.policy.policy import MicroBatch
from trainer.ranks import mean_over_ranks
from trainer.run import checkpoint
from trainer.run import kept as rollouts
from trainer.run.files import make_folder, read_jsonl
from trainer.run.metrics import check_gap
from trainer.run.publish import Reporter, before_and_after, push_to_hub, write_card
from trainer.sampler.engine import choose_engine


def lock_folder(out: Path) -> int:
    """Make the folder if there is none, and let no other process write in it. Returns the lock.

    The lock goes with the process, however that ends. Where no step was ever taken the folder is as
    good as new, so its recipe is forgotten. Raises Refused when another run has it.
    """
    make_folder(out)
    if not os.access(out, os.W_OK):
        raise Refused(f"cannot write in {out}; give another --out, or change its permissions")
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Refused(
            f"another process is training in {out}: wait until it ends, or give another --out"
        ) from error
    except OSError:
        tqdm.write(f"{out} is on a file system without locks: start no second run there")
    if not (out / "metrics.jsonl").exists() and not (out / "checkpoints").exists():
        (out / "config.json").unlink(missing_ok=True)
    return lock


class Run:
    """One run's folder and screen. Only rank 0 writes and prints."""

    def __init__(self, recipe: str, config):
        """Claim the folder for this process.

        Raises Refused when another recipe's run lies there, or a run is at work in it.
        """
        scale = "-tiny" if config.tiny else ""
        self.recipe, self.config = recipe, config
        self.out = Path(config.out or f"runs/{recipe}{scale}-seed{config.seed}").expanduser()
        self.first = dist.get_rank() == 0
        self.lock = lock_folder(self.out) if self.first else None  # held until the process ends
        dist.barrier()
        checkpoint.claim(self.out, {"recipe": recipe, **dataclasses.asdict(config)})
        dist.barrier()
        self.phase_name, self.phase_start, self.seconds = None, 0.0, {}
        self.locked = self.stopping = self.ended = False
        self.step = 0
        self.accuracy, self.durations, self.evaluation = float("nan"), [], 0.0
        values = dataclasses.asdict(config)
        self.reporter = Reporter(self.out, recipe, values) if self.first else None

    def say(self, text: str) -> None:
        """Print above the progress bar."""
        if self.first:
            tqdm.write(text)

    def resume(self, state: dict, problems: list[Problem], policy, optimizer) -> dict:
        """Say what this run will do and put back what its newest checkpoint holds.

        Returns the checkpoint's state, or `state` at step 0 where there is no checkpoint. Raises
        Refused if the problems, or what a state holds, have changed since.
        """
        config, ranks = self.config, dist.get_world_size()
        self.say(
            f"{self.recipe}: {config.model} on {len(problems)} problems, {config.steps} steps of "
            f"{config.prompts_per_step} prompts x {config.samples_per_prompt} responses of at most "
            f"{config.max_response_tokens} tokens, {choose_engine(config.engine)} engine, "
            f"{ranks} rank(s), in {self.out}"
        )
        state = {"step": 0, "data": fingerprint(problems), **state}
        folder = checkpoint.latest_checkpoint(self.out, self.say)
        if folder is not None:
            state = checkpoint.load_checkpoint(folder, state, policy, optimizer)
        # Without a checkpoint the run begins again, with its first evaluation at step 0.
        done = state["step"] if folder is not None else -1
        checkpoint.forget_after(self.out / "metrics.jsonl", done)
        if self.first:
            rollouts.forget_after(self.out / "rollouts", done)
        if folder is not None:
            left = config.steps - state["step"]
            what = f"{left} steps are left" if left > 0 else "Nothing is left: raise --steps"
            self.say(f"Continuing {self.out} after step {state['step']}. {what}.")
        return state

    # --- steps, and the end of them ---

    def steps(self, done: int) -> Iterator[int]:
        """Yield the steps still to do, behind a progress bar.

        Ctrl-C or SIGTERM ends the run after the step at hand.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        total = self.config.steps
        with tqdm(
            total=total, initial=done, unit="step", disable=not self.first, dynamic_ncols=True
        ) as self.bar:
            for step in range(done + 1, total + 1):
                self.step, self.seconds = step, {}
                self.started = time.perf_counter()
                yield step
                self.bar.update()
                if self.ended:
                    return

    def _stop(self, number, _frame) -> None:
        self.stopping = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends the run at once
        name = signal.Signals(number).name
        self.say(f"\n{name}: finishing this step, then saving. The same command continues.")

    def due(self, step: int, every: int) -> bool:
        """Whether something is due that happens every so many steps and at the end; 0: never."""
        return every > 0 and (step % every == 0 or step == self.config.steps)

    # --- the clock ---

    def phase(self, name: str | None) -> None:
        """From now on, time counts as seconds_NAME of this step, until the next phase begins."""
        if self.locked:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.phase_name:
            spent = self.seconds.get(self.phase_name, 0.0) + now - self.phase_start
            self.seconds[self.phase_name] = spent
        self.phase_name, self.phase_start = name, now

    @contextmanager
    def timed(self, name: str):
        """As a decorator: all that the function does is one phase, whatever phases it begins."""
        self.phase(name)
        self.locked = True
        yield
        self.locked = False
        self.phase(None)

    # --- what it writes ---

    def log(self, step: int, metrics: dict) -> None:
        """Append a step's metrics, with its seconds, to metrics.jsonl (and TensorBoard)."""
        self.phase(None)
        check_gap(step, metrics, self.say)
        check_finite(step, metrics)
        if skipped := metrics.get("skipped_updates"):
            self.say(f"step {step}: {skipped} updates skipped, their gradient was not finite")
        metrics = {"step": step, **metrics}
        for name, spent in self.seconds.items():
            metrics[f"seconds_{name}"] = round(spent, 4)
        if step > 0:
            metrics["seconds_step"] = round(time.perf_counter() - self.started, 4)
            self.durations.append(metrics["seconds_step"] - metrics.get("seconds_evaluate", 0.0))
        self.evaluation = metrics.get("seconds_evaluate", self.evaluation)
        if not self.first:
            return
        self._append("metrics.jsonl", [metrics])
        self.reporter.log(step, metrics)
        self.accuracy = metrics.get("eval_accuracy", self.accuracy)
        if step > 0:
            self.bar.set_postfix_str(
                f"reward {metrics['reward']:+.2f}, pass@1 {self.accuracy:.3f}, "
                f"length {metrics['length']:.0f}, entropy {metrics['entropy']:.3f}, "
                f"gap {metrics['logp_gap']:.1g}"
            )
        if len(self.durations) == 2 and self.config.steps > step:
            self._say_how_long(step)

    def _say_how_long(self, step: int) -> None:
        """The second step, because the first one of a process is slower than the rest."""
        ahead = range(step + 1, self.config.steps + 1)
        evaluations = sum(self.due(later, self.config.eval_every) for later in ahead)
        seconds = self.durations[-1] * len(ahead) + self.evaluation * evaluations
        self.say(
            f"{self.durations[-1]:.3g} s a step: about {in_words(seconds)} for the {len(ahead)} "
            f"left, with {evaluations} evaluations."
        )

    def keep_rollouts(
        self,
        step: int,
        problems: list[Problem],
        groups: list[list[Rollout]],
        advantages_P_G: torch.Tensor,
        minibatches: list[list[MicroBatch]],
        clip: tuple[float, ...],
    ) -> None:
        """Keep a few groups of the step, token by token; show two answers at evaluations.

        Call this on every rank, after the updates. See trainer/run/kept.py.
        """
        self.phase("keep")
        kept = rollouts.choose(groups, self.config.keep_rollouts)
        values = rollouts.token_values(groups, kept, minibatches, clip, self.config.tis_cap)
        values = rollouts.gather_values(values)
        if self.first and kept:
            advantages = advantages_P_G.tolist()
            rows = [
                rollouts.rows_of(step, p, problems[p], groups[p], advantages[p], values)
                for p in kept
            ]
            rollouts.write(self.out / "rollouts", f"step_{step:06d}", list(chain(*rows)))
        self.phase(None)
        if self.due(step, self.config.eval_every):
            for problem, group in list(zip(problems, groups, strict=True))[:2]:
                self._show(step, problem, group[0])

    def keep_held_out(self, problems: list[Problem], groups: list[list[Rollout]]) -> None:
        """Keep answers to a few held-out problems, the same at every evaluation."""
        kept = rollouts.choose_held_out(len(problems), self.config.keep_rollouts)
        if self.first and kept:
            count = None if self.config.keep_rollouts == "all" else rollouts.ANSWERS
            rows = [
                rollouts.rows_of(self.step, p, problems[p], groups[p], answers=count) for p in kept
            ]
            rollouts.write(self.out / "rollouts", f"eval_{self.step:06d}", list(chain(*rows)))

    def _show(self, step: int, problem: Problem, rollout: Rollout) -> None:
        text = rollout.text.strip()
        text = text if len(text) < 600 else f"[...] {text[-600:]}"
        self.say(
            f"\n--- step {step}: {problem.text.strip()}   (answer {problem.answer}, "
            f"reward {rollout.reward:+.2f})\n{text}"
        )

    def _append(self, name: str, objects: list[dict]) -> None:
        try:
            with open(self.out / name, "a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in objects))
        except OSError as error:
            raise Refused(
                f"cannot write {self.out / name} ({error.strerror}): make room, the same command "
                f"continues the run"
            ) from error

    def save_when_due(self, state: dict, policy, tokenizer, optimizer) -> None:
        """Save a checkpoint on schedule, at the end, or when a signal has told a rank to stop.

        Call this once a step, on every rank. state["step"] names the checkpoint.
        """
        stopping = mean_over_ranks([float(self.stopping)])[0] > 0
        self.ended = stopping or state["step"] == self.config.steps
        if self.ended or self.due(state["step"], self.config.save_every):
            keep = self.config.keep_checkpoints
            checkpoint.save_checkpoint(self.out, state, policy, tokenizer, optimizer, keep=keep)

    def finish(self, draw: Callable[[Path, Path], None]) -> None:
        """Print what the run did, and put a model card with its curves beside the weights.

        draw(folder, picture) draws the curves.
        """
        if not self.first:
            return
        curves = self.out / "curves.png"
        draw(self.out, curves)
        rows = read_jsonl(self.out / "metrics.jsonl")
        print_summary(rows)
        config, defaults = dataclasses.asdict(self.config), dataclasses.asdict(type(self.config)())
        trained = max((self.out / "checkpoints").glob("step_??????"))
        write_card(trained, self.recipe, config, rows, defaults, curves)
        self.reporter.finish()
        print(f"Curves, metrics, rollouts and checkpoints: {self.out}")
        print(f"To read what it answered: python -m tools.view {self.out}")
        if self.config.push_to_hub and rows[-1]["step"] == self.config.steps:
            print(f"The trained model: {push_to_hub(trained, self.config.push_to_hub)}")


def check_finite(step: int, metrics: dict) -> None:
    """Raise Refused, naming it, where one of a step's numbers is not finite."""
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused(
                f"step {step}: {name} is {value}, so nothing can be learnt from it. The last "
                f"checkpoint is intact"
            )


def in_words(seconds: float) -> str:
    """A length of time in its natural unit.

    >>> in_words(50), in_words(600), in_words(8000), in_words(400000)
    ('50 seconds', '10 minutes', '2.2 hours', '4.6 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def print_summary(rows: list[dict]) -> None:
    """Print the metrics of a run's first and last steps, and the share of time of each phase."""
    measures = before_and_after(rows)
    if not measures:
        return
    print(f"\n{'':24}{'before':>10}{'after':>10}")
    for name, (before, after) in measures.items():
        print(f"{name:24}{before:10.4g}{after:10.4g}")
    trained = [row for row in rows if row["step"] > 0]
    phases = {key for row in trained for key in row if key.startswith("seconds_")}
    whole = sum(row["seconds_step"] for row in trained)
    shares = [
        f"{name.removeprefix('seconds_')} {sum(row.get(name, 0.0) for row in trained) / whole:.0%}"
        for name in sorted(phases - {"seconds_step"})
    ]
    print(f"\n{len(trained)} steps in {whole:.0f} s: {', '.join(shares)}")
