"""Everything around a recipe's loop: the run folder, progress bar, clock, log and stop signals."""

import dataclasses
import json
import math
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from trainer.data import Problem, Rollout, fingerprint, say
from trainer.errors import Refused
from trainer.policy.policy import MicroBatch
from trainer.ranks import from_all_ranks
from trainer.run import checkpoint, flags, kept
from trainer.run.claim import claim, code_digests, lock_folder, recipe_file, unlock
from trainer.run.files import checkpoints, read_jsonl
from trainer.run.metrics import check_gap
from trainer.run.publish import MEASURES, before_and_after, make_reporters, push_to_hub, write_card
from trainer.sampler.engine import choose_engine

# What the progress bar shows, and how.
BAR = {"reward": "+.2f", "pass@1": ".3f", "length": ".0f", "entropy": ".3f", "logp_gap": ".1g"}


class Run:
    """One run. Only rank 0 writes and prints."""

    say = staticmethod(say)

    def __init__(self, recipe: str, config):
        """Check the config and claim the folder for this process.

        Raises Refused for a value that makes no sense, when the folder holds a run with other
        settings or other code, or when another process is training in it.
        """
        flags.check(config)
        scale = "-tiny" if config.tiny else ""
        self.recipe, self.config = recipe, config
        self.out = Path(config.out or f"runs/{recipe}{scale}-seed{config.seed}").expanduser()
        self.first = dist.get_rank() == 0
        if self.first:
            lock_folder(self.out)
        dist.barrier()
        values = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        code = code_digests(config)
        claim(self.out, {"recipe": recipe, **values}, code)
        dist.barrier()
        self.phase_name, self.phase_start, self.seconds = None, 0.0, defaultdict(float)
        self.locked = self.ended = self.checked = False
        self.stopped_by = None  # the signal
        self.step, self.idle_steps, self.all_equal = 0, 0, False
        self.logged = self.saved = 0  # the last step that was
        self.accuracy = float("nan")
        self.reporters = make_reporters(self.out, recipe, values) if self.first else []

    def resume(self, state: dict, problems: list[Problem], policy, optimizer) -> dict:
        """Print what this run will do, and load its newest checkpoint.

        Returns the checkpoint's state, or `state` at step 0 if there is no checkpoint. Raises
        Refused if the problems or the keys of the state have changed since.
        """
        config, ranks = self.config, dist.get_world_size()
        self.say(
            f"{self.recipe}: {config.model} on {len(problems)} problems, {config.steps} steps of "
            f"{config.prompts_per_step} prompts x {config.samples_per_prompt} responses of at most "
            f"{config.max_response_tokens} tokens, {choose_engine(config.engine)} engine, "
            f"{ranks} rank(s), in {self.out}"
        )
        state = {"step": 0, "data": fingerprint(problems), **state}
        done = -1  # without a checkpoint the run begins again, with its first evaluation at step 0
        if folder := checkpoint.latest_checkpoint(self.out):
            state = checkpoint.load_checkpoint(folder, state, policy, optimizer)
            done = state["step"]
            left = config.steps - done
            what = f"{left} steps are left" if left > 0 else "Nothing is left: raise --steps"
            self.say(f"Continuing {self.out} after step {done}. {what}.")
            if not recipe_file(config):
                self.say("The recipe has no file, so nobody has checked that its code is the same.")
        if self.first:
            checkpoint.forget_after(self.out / "metrics.jsonl", done)
            kept.forget_after(self.out / "rollouts", done)
        return state

    # --- steps, and the end of them ---

    def steps(self, done: int) -> Iterator[int]:
        """Yield the remaining steps, with a progress bar.

        Ctrl-C or SIGTERM ends the run after the current step.
        """
        total, signals = self.config.steps, (signal.SIGINT, signal.SIGTERM)
        before = [(number, signal.signal(number, self._stop)) for number in signals]
        try:
            with tqdm(
                total=total, initial=done, unit="step", disable=not self.first, dynamic_ncols=True
            ) as self.bar:
                for step in range(done + 1, total + 1):
                    self.step, self.seconds = step, defaultdict(float)
                    self.started = time.perf_counter()
                    yield step
                    self.bar.update()
                    if self.ended:
                        return
        finally:
            for number, handler in before:
                signal.signal(number, handler or signal.SIG_DFL)

    def _stop(self, number, _frame) -> None:
        self.stopped_by = number
        signal.signal(number, signal.SIG_DFL)  # a second one ends the run at once
        name = signal.Signals(number).name
        self.say(f"\n{name}: finishing this step, then saving. The same command continues.")
        if (
            "TORCHELASTIC_RUN_ID" in os.environ
            and "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" not in os.environ
        ):
            self.say("torchrun kills it after 30 s, unless started with --shutdown-timeout 3600.")

    def due(self, step: int, every: int) -> bool:
        """Whether something is due at this step: every `every` steps and at the end; 0: never."""
        return every > 0 and (step % every == 0 or step == self.config.steps)

    # --- the clock ---

    def phase(self, name: str | None) -> None:
        """Count time as seconds_NAME of this step, until the next phase begins."""
        if self.locked:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.phase_name:
            self.seconds[self.phase_name] += now - self.phase_start
        self.phase_name, self.phase_start = name, now

    @contextmanager
    def timed(self, name: str):
        """Count a decorated function, or a `with` block, as one phase with all phases inside it."""
        self.phase(name)
        self.locked = True
        try:
            yield
        finally:
            self.locked = False
            self.phase(None)

    # --- what it writes ---

    def log(self, step: int, metrics: dict) -> None:
        """Append a step's metrics, with its seconds, to metrics.jsonl (and TensorBoard).

        A metric is text or a number of any type, also a tensor or array with one value.
        """
        self.phase(None)
        self.logged = step
        metrics = {"step": step} | {name: plain(name, value) for name, value in metrics.items()}
        check_gap(step, metrics)
        metrics = finite(step, metrics)
        if skipped := metrics.get("skipped_updates"):
            self.say(f"step {step}: {skipped} updates skipped, their gradient was not finite")
        if self.all_equal or (metrics.get("grad_norm") == 0 and not skipped):
            self.idle_steps += 1
            what = "in every group all answers got the same reward"
            what = what if self.all_equal else "the gradient is 0"
            if metrics.get("truncated") == 1:
                what += ", and all are cut at --max_response_tokens"
            if self.idle_steps == 1:
                self.say(f"step {step}: {what}, so nothing is learnt")
        metrics |= {f"seconds_{name}": round(spent, 4) for name, spent in self.seconds.items()}
        self.accuracy = metrics.get("eval_accuracy", self.accuracy)
        if step > 0:
            metrics["seconds_step"] = round(time.perf_counter() - self.started, 4)
            shown = {"pass@1": self.accuracy} | metrics
            parts = [f"{name} {shown[name]:{form}}" for name, form in BAR.items() if name in shown]
            self.bar.set_postfix_str(", ".join(parts))
        if self.first:
            with open(self.out / "metrics.jsonl", "a") as file:
                file.write(json.dumps(metrics) + "\n")
        for reporter in self.reporters:
            reporter.log({k: v for k, v in metrics.items() if not isinstance(v, str)}, step=step)

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
        pairs = list(zip(problems, groups, strict=True))
        self.all_equal = not advantages_P_G.any()
        places = kept.choose(groups, self.config.keep_rollouts)
        values = kept.token_values(groups, places, minibatches, clip, self.config.tis_cap)
        if self.first and places:
            rows, advantages = [], advantages_P_G.tolist()
            for p in places:
                more = [
                    values.get((p, g), {}) | {"advantage": a} for g, a in enumerate(advantages[p])
                ]
                rows += kept.rows_of(step, p, problems[p], groups[p], more)
            kept.write(self.out / "rollouts", f"step_{step:06d}", rows)
        if self.due(step, self.config.eval_every):
            for problem, group in pairs[:2]:
                self._show(step, problem, group[0])

    def keep_held_out(self, problems: list[Problem], groups: list[list[Rollout]]) -> None:
        """Keep answers to a few held-out problems, the same at every evaluation."""
        places = kept.choose_held_out(len(problems), self.config.keep_rollouts)
        if self.first and places:
            rows, count = [], None if self.config.keep_rollouts == "all" else kept.ANSWERS
            for p in places:
                more = [kept.stored({"logps": rollout.logps}) for rollout in groups[p][:count]]
                rows += kept.rows_of(self.step, p, problems[p], groups[p], more)
            kept.write(self.out / "rollouts", f"eval_{self.step:06d}", rows)

    def _show(self, step: int, problem: Problem, rollout: Rollout) -> None:
        text = rollout.text.strip()
        text = text if len(text) < 600 else f"[...] {text[-600:]}"
        self.say(
            f"\n--- step {step}: {problem.text.strip()}   (answer {problem.answer}, "
            f"reward {rollout.reward:+.2f})\n{text}"
        )

    def save_when_due(self, state: dict, policy, tokenizer, optimizer) -> None:
        """Save a checkpoint on schedule, at the end, or after a stop signal to any rank.

        Call this once a step, on every rank. state["step"] names the checkpoint.
        """
        if not self.checked:
            checkpoint.check_whole(state, policy, optimizer)
            self.checked = True
        self.stopped_by = next(filter(None, from_all_ranks(self.stopped_by)), None)
        self.ended = self.stopped_by is not None or state["step"] == self.config.steps
        if self.ended or self.due(state["step"], self.config.save_every):
            keep = self.config.keep_checkpoints
            checkpoint.save_checkpoint(self.out, state, policy, tokenizer, optimizer, keep=keep)
            self.saved = state["step"]

    def finish(self, draw: Callable[[Path, Path], None]) -> None:
        """Print a summary, save the curves and a model card, and release the folder.

        draw(folder, picture) draws the curves. If Ctrl-C or SIGTERM has stopped the run, raises
        KeyboardInterrupt(signal) at the end. Raises RuntimeError if the last step is not saved.
        """
        if self.saved != self.logged:
            raise RuntimeError(
                f"step {self.logged}, the last one, is not saved: each step must reach "
                f"run.save_when_due, and to end early set config.steps = step before it"
            )
        if self.first:
            self._finish(draw)
            unlock(self.out)
        dist.barrier()  # a rank that leaves by the signal would end rank 0, too
        if self.stopped_by and self.logged < self.config.steps:
            raise KeyboardInterrupt(self.stopped_by)

    def _finish(self, draw):
        curves = self.out / "curves.png"
        draw(self.out, curves)
        rows = read_jsonl(self.out / "metrics.jsonl")
        if self.logged:  # else there is nothing new
            if self.logged < self.config.steps:
                print(f"\nPartial: stopped after step {self.logged} of {self.config.steps}.")
            print_summary(rows)
            if self.idle_steps:
                print(f"Nothing was learnt in {self.idle_steps} of them.")
        trained = checkpoints(self.out)[-1]
        write_card(trained, self.recipe, self.config, rows, curves)
        for reporter in self.reporters:
            reporter.finish()
        print(f"Curves, metrics, rollouts and checkpoints: {self.out}")
        print(f"To read what it answered: python -m tools.view {self.out}")
        if self.config.push_to_hub and rows[-1]["step"] == self.config.steps:
            print(f"The trained model: {push_to_hub(trained, self.config.push_to_hub)}")


def plain(name: str, value):
    """A metric as JSON can hold it. Raises TypeError unless it is text or one number."""
    if isinstance(value, str | int | float):
        return value
    try:
        return value.item() if hasattr(value, "item") else float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the metric {name!r} is not one number or text: {value!r}") from error


def finite(step: int, metrics: dict) -> dict:
    """The metrics without numbers that are not finite. It says which were left out.

    Raises Refused if one of MEASURES is not finite.
    """
    wrong = [k for k, v in metrics.items() if isinstance(v, float) and not math.isfinite(v)]
    for name in wrong:
        if name in MEASURES:
            raise Refused(
                f"step {step}: {name} is {metrics[name]}, so nothing can be learnt from it. The "
                f"last checkpoint is intact"
            )
        say(f"step {step}: {name} is {metrics[name]}, so it is not logged")
    return {name: value for name, value in metrics.items() if name not in wrong}


def print_summary(rows: list[dict]) -> None:
    """Print the metrics of the first and last steps, and each phase's share of the time."""
    print(f"\n{'':24}{'before':>10}{'after':>10}")
    for name, (before, after) in before_and_after(rows).items():
        print(f"{name:24}{before:10.4g}{after:10.4g}")
    trained = [row for row in rows if row["step"] > 0]
    phases = {key for row in trained for key in row if key.startswith("seconds_")}
    whole = sum(row["seconds_step"] for row in trained)
    shares = [
        f"{name.removeprefix('seconds_')} {sum(row.get(name, 0.0) for row in trained) / whole:.0%}"
        for name in sorted(phases - {"seconds_step"})
    ]
    print(f"\nsteps: {len(trained)}, in {whole:.0f} s: {', '.join(shares)}")
