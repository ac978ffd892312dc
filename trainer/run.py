"""A run seen from outside: its command line, its folder, its progress bar, its clock, and how it is stopped."""

import argparse
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import HfArgumentParser
from transformers.utils import logging as transformers_logging

from trainer import checkpoint
from trainer.policy import mean_over_ranks

SAMPLES = 4  # answers kept a step


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """--help with each default, and the script's docstring as it was written."""


def parse(config_class: type, tiny: dict, doc: str):
    """The command line as a config: the dataclass's defaults, after --tiny the tiny preset's, then the flags given."""
    usage = "%(prog)s [--tiny] [--FLAG VALUE ...]"
    parser = HfArgumentParser(
        config_class, description=doc, usage=usage, formatter_class=Help, allow_abbrev=False
    )
    if "--tiny" in sys.argv:
        parser.set_defaults(**tiny)
    config, unknown = parser.parse_args_into_dataclasses(return_remaining_strings=True)
    if unknown:
        parser.error(f"unknown argument {unknown[0]}; --help lists them all")
    return config


def launch(main: Callable, config) -> None:
    """Run main(config); an error the user can mend becomes one sentence and a non-zero exit instead of a traceback."""
    transformers_logging.disable_progress_bar()  # one bar on the screen, ours
    try:
        main(config)
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    finally:
        if (
            dist.is_initialized() and "vllm" not in sys.modules
        ):  # vLLM ends the group itself, after its own ones
            dist.destroy_process_group()


def model_folder(model: str) -> str:
    """A --model value as transformers and vLLM take it: "tiny:NAME" is one of the embedded world's starting points."""
    if model.startswith("tiny:"):
        from tiny.pretrain import base_model  # here: real models need no tiny world

        return base_model(model.removeprefix("tiny:"))
    return model


def rollout_metrics(rollouts_N: list) -> dict[str, float]:
    """What a batch of rollouts looks like: mean reward, accuracy, length (tokens) and truncation, and all tokens."""
    count = len(rollouts_N)
    tokens = sum(len(rollout.response_ids) for rollout in rollouts_N)
    return {
        "reward": sum(rollout.reward for rollout in rollouts_N) / count,
        "accuracy": sum(rollout.right for rollout in rollouts_N) / count,
        "length": tokens / count,
        "truncated": sum(rollout.truncated for rollout in rollouts_N) / count,
        "tokens": tokens,
    }


def gradient_metrics(norms: list[float]) -> dict[str, float]:
    """Mean gradient norm of a step's updates, and how many of them were skipped because it was not finite."""
    finite = [norm for norm in norms if math.isfinite(norm)]
    return {
        "grad_norm": sum(finite) / max(1, len(finite)),
        "skipped_updates": len(norms) - len(finite),
    }


class Run:
    """One run's folder and screen. Only rank 0 writes and prints."""

    def __init__(self, recipe: str, config):
        """Claim the folder. Raises ValueError when another recipe's run lies there."""
        scale = "-tiny" if config.tiny else ""
        self.out = Path(config.out or f"runs/{recipe}{scale}-seed{config.seed}")
        self.total = config.steps
        self.first = dist.get_rank() == 0
        checkpoint.claim(self.out, {"recipe": recipe, **dataclasses.asdict(config)})
        dist.barrier()
        self.seconds: dict[str, float] = {}
        self.ticking = self.stopping = False
        self.board = _tensorboard(self.out) if self.first else None

    def say(self, text: str) -> None:
        """Print above the progress bar."""
        if self.first:
            tqdm.write(text)

    def resume(self, policy, optimizer, reference=None) -> dict:
        """Put the newest checkpoint's state back and return it; {"step": 0} where there is none."""
        folder = checkpoint.latest_checkpoint(self.out)
        state = (
            {"step": 0}
            if folder is None
            else checkpoint.load_checkpoint(folder, policy, optimizer, reference)
        )
        checkpoint.forget_after(self.out / "metrics.jsonl", state["step"])
        checkpoint.forget_after(self.out / "samples.jsonl", state["step"])
        if folder is not None:
            self.say(f"Continuing {self.out} after step {state['step']}.")
        return state

    def steps(self, done: int):
        """Yield the steps still to do, behind a progress bar. Ctrl-C or SIGTERM ends the run after the step at hand."""
        for sort in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sort, self._stop)
        with tqdm(
            total=self.total, initial=done, unit="step", disable=not self.first, dynamic_ncols=True
        ) as self.bar:
            for step in range(done + 1, self.total + 1):
                self.seconds = {}
                self.started = time.perf_counter()
                yield step
                self.bar.update()
                if self.ended:
                    return

    def _stop(self, sort, _frame) -> None:
        self.stopping = True
        signal.signal(sort, signal.SIG_DFL)  # a second one ends the run at once
        self.say(
            f"\n{signal.Signals(sort).name}: finishing this step, then saving. The same command continues."
        )

    def last(self, step: int) -> bool:
        """Whether this step is the last, by plan or because a rank was told to stop. Ask once a step, on every rank."""
        self.ended = step == self.total or mean_over_ranks([float(self.stopping)])[0] > 0
        return self.ended

    @contextmanager
    def clock(self, name: str):
        """Count the time of a block as seconds_NAME of this step. A clock inside another one does not count twice."""
        outermost, self.ticking = not self.ticking, True
        start = time.perf_counter()
        yield
        if outermost:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.ticking = False

    def log(self, metrics: dict) -> None:
        """Append one step's metrics, with its seconds, to metrics.jsonl (and TensorBoard) and show them on the bar."""
        metrics = metrics | {
            f"seconds_{name}": round(spent, 4) for name, spent in self.seconds.items()
        }
        if metrics["step"] > 0:
            metrics["seconds_step"] = round(time.perf_counter() - self.started, 4)
        if not self.first:
            return
        self._append("metrics.jsonl", [metrics])
        if self.board:
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(name, value, metrics["step"])
        self.accuracy = metrics.get("eval_accuracy", getattr(self, "accuracy", float("nan")))
        if metrics["step"] > 0:
            self.bar.set_postfix_str(
                f"reward {metrics['reward']:+.2f}, pass@1 {self.accuracy:.3f}, length {metrics['length']:.0f}, "
                f"entropy {metrics['entropy']:.3f}, gap {metrics['logp_gap']:.1g}"
            )

    def log_samples(
        self, step: int, groups: list, problems: list, advantages_N: torch.Tensor, show: bool
    ) -> None:
        """Append the first answer of a few groups to samples.jsonl, and show two of them on the screen."""
        if not self.first:
            return
        samples = [
            {
                "step": step,
                "prompt": problem.text,
                "response": group[0].text,
                "answer": problem.answer,
                "reward": group[0].reward,
                "advantage": advantages_N[p * len(group)].item(),
            }
            for p, (group, problem) in enumerate(zip(groups[:SAMPLES], problems, strict=False))
        ]
        self._append("samples.jsonl", samples)
        if show:
            for sample in samples[:2]:
                text = (
                    sample["response"]
                    if len(sample["response"]) < 600
                    else "[...] " + sample["response"][-600:]
                )
                question, answer, reward = (
                    sample["prompt"].strip(),
                    sample["answer"],
                    sample["reward"],
                )
                self.say(
                    f"\n--- step {step}: {question}   (answer {answer}, reward {reward:+.2f})\n{text.strip()}"
                )

    def _append(self, name: str, objects: list[dict]) -> None:
        with open(self.out / name, "a") as file:
            file.write("".join(json.dumps(object) + "\n" for object in objects))

    def save(
        self, step: int, policy, tokenizer, optimizer, state: dict, keep: int, reference=None
    ) -> None:
        """Save a checkpoint of this step, see checkpoint.save_checkpoint."""
        checkpoint.save_checkpoint(
            self.out, step, policy, tokenizer, optimizer, state, keep, reference
        )

    def finish(self) -> None:
        """Draw the curves and print what the run did, before and after, where the time went, and where it all lies."""
        if not self.first:
            return
        from trainer.plot import plot_run  # here: matplotlib takes a second to import

        plot_run(self.out, self.out / "curves.png")
        rows = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
        trained = [row for row in rows if row["step"] > 0]
        if not trained:
            return
        edge = max(1, min(5, len(trained) // 2))
        print(f"\n{'':24}{'before':>10}{'after':>10}")
        measured = [row["eval_accuracy"] for row in rows if "eval_accuracy" in row]
        if measured:
            print(f"{'held-out pass@1':24}{measured[0]:10.3f}{measured[-1]:10.3f}")
        for name in ("reward", "accuracy", "length", "truncated", "entropy", "logp_gap"):
            before, after = (
                sum(row[name] for row in part) / edge for part in (trained[:edge], trained[-edge:])
            )
            print(f"{name:24}{before:10.4g}{after:10.4g}")
        clocks = sorted(
            {key for row in trained for key in row if key.startswith("seconds_")} - {"seconds_step"}
        )
        spent = {key: sum(row.get(key, 0.0) for row in trained) for key in clocks}
        whole = sum(row["seconds_step"] for row in trained)
        shares = ", ".join(
            f"{key.removeprefix('seconds_')} {value / whole:.0%}" for key, value in spent.items()
        )
        print(f"\n{len(trained)} steps in {whole:.0f} s: {shares}")
        print(f"Curves, metrics, samples and checkpoints: {self.out}")


def _tensorboard(out: Path):
    """torch's own TensorBoard writer where the tensorboard package is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(out / "tensorboard")
