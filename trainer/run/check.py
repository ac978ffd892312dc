"""`--check`: does a run fit on this machine, how long will it take, and which flag helps?

    python justrl.py --small --check
    torchrun --nproc-per-node 8 justrl.py --check

It runs the recipe's own main for two steps, in a folder that it deletes, with prompts and responses
as long as the flags allow, and only as many of them as fill the micro-batches. The first step
allocates the optimizer's state, the second one is timed. A thread records the least free memory.
There are no evaluations.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, cycle, islice
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.data import chat_ids
from trainer.errors import Refused
from trainer.machine import device_memory, host_memory
from trainer.policy.pretrained import load_tokenizer
from trainer.ranks import start_ranks
from trainer.run.files import read_jsonl
from trainer.sources.load import load_problems

GB = 1e9
TOKENS = 2**20  # that a rank samples at most in one step of a check
STATE_BYTES = 16  # of a parameter: float32 weight, gradient and AdamW's two moments
SAVED_BYTES = 12  # of a parameter in a checkpoint: all of these but the gradient
LOCAL_RANKS = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
WIDTH = 24  # columns of the table's first column

# Every second response is right: a recipe that drops groups of equal rewards drops none.
REWARD = "def alternate(texts, answers, rows):\n    return [i % 2 for i in range(len(texts))]\n"


def check(main: Callable, config, model_dir: str) -> None:
    """Run main(config) at its largest, and print what it took.

    model_dir: the folder or hub id of --model. Raises Refused, with the flag to change, if the run
    does not fit. Exceptions of main pass through.
    """
    device = start_ranks(one_thread=config.tiny)
    least = LeastFree(device)
    parameters = count_parameters(model_dir)
    refuse_what_cannot_fit(config, parameters, least)
    with scratch_folder(config) as folder:
        free_disk = shutil.disk_usage(folder).free
        if SAVED_BYTES * parameters > free_disk:
            raise Refused(
                f"this run does not fit: a checkpoint takes {SAVED_BYTES * parameters / GB:.1f} GB,"
                f" and {free_disk / GB:.1f} GB of disk are free; give an --out on a larger disk"
            )
        held_out = len(load_problems(config.eval_data)) if config.eval_every else 0
        hardest = at_its_hardest(config, model_dir, folder)
        with sentences(config), least, contextlib.redirect_stdout(io.StringIO()):
            main(hardest)
        faults = [""]
        if dist.get_rank() == 0:
            steps = read_jsonl(folder / "run" / "metrics.jsonl")
            if len(steps) < hardest.steps:  # Ctrl-C: the run has ended early
                raise KeyboardInterrupt
            needs = what_it_needs(config, least, folder, free_disk)
            name = f"{config.model}, {parameters / 1e6:,.1f} M parameters"
            print(table(config, hardest, steps[-1], needs, held_out, f"{name}, on {device}"))
            faults = [" ".join(what_does_not_fit(needs))]
    dist.broadcast_object_list(faults, device=torch.device("cpu"))
    if faults[0]:
        raise Refused(faults[0])


# --- what is tried ---


def at_its_hardest(config, model_dir: str, folder: Path):
    """The config of a run of two short steps that needs as much memory as the real one.

    Each step has as many prompts as fill two micro-batches of every update on every rank, and more
    while a rank samples fewer than TOKENS.
    """
    longest, ranks = config.max_prompt_tokens + config.max_response_tokens, dist.get_world_size()
    rows = max(1, config.tokens_per_micro_batch // longest)  # of a micro-batch
    rows = ranks * max(2 * rows * config.updates_per_step, TOKENS // longest)
    prompts = min(config.prompts_per_step, math.ceil(rows / config.samples_per_prompt))
    # The engine also reserves memory for evaluations, whose answers may be longer.
    answer = max(config.max_response_tokens, config.eval_max_tokens if config.eval_every else 0)
    tried = {
        "check": True,  # responses do not end early
        "steps": 2,
        "prompts_per_step": prompts,
        "max_prompt_tokens": config.max_prompt_tokens + answer - config.max_response_tokens,
        "data": str(folder / "problems.jsonl"),
        "reward": f"{folder / 'reward.py'}:alternate",
        "out": str(folder / "run"),
        **{"eval_every": 0, "save_every": 0, "keep_checkpoints": 1, "decontaminate": False},
        **{"report_to": "none", "push_to_hub": ""},
    }
    texts = longest_problems(config, load_tokenizer(model_dir), prompts)
    if dist.get_rank() == 0:
        rows = [json.dumps({"problem": text, "answer": "1"}) + "\n" for text in texts]
        (folder / "problems.jsonl").write_text("".join(rows))
        (folder / "reward.py").write_text(REWARD)
    dist.barrier()
    return dataclasses.replace(config, **tried)


def longest_problems(config, tokenizer, count: int) -> list[str]:
    """Problems with prompts of nearly max_prompt_tokens tokens, made of the run's own text."""
    letters = chain.from_iterable(cycle(problem.text for problem in load_problems(config.data)))
    found = []
    for _ in range(count):
        text = "".join(islice(letters, 6 * config.max_prompt_tokens))
        low, high = 1, len(text)
        while low < high:  # as many letters as fit
            half = (low + high + 1) // 2
            tokens = len(chat_ids(tokenizer, text[:half], config.instruction))
            # A few less than the limit, because a recipe's own template may need some.
            low, high = (half, high) if tokens <= config.max_prompt_tokens - 8 else (low, half - 1)
        found.append(text[:low])
    return found


def count_parameters(model_dir: str) -> int:
    """Weights of a model, from its config alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir))
    return model.num_parameters()


# --- memory ---


class LeastFree(threading.Thread):
    """Record the least free memory during a `with` block.

    Torch's counters and the process's size would miss vLLM, NCCL and pinned memory.
    """

    def __init__(self, device: torch.device):
        super().__init__(daemon=True)
        self.ended, self.where = threading.Event(), device
        self.device_at_first = self.device = device_memory(device)
        self.host_at_first = self.host = host_memory()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            self.device = min(self.device, device_memory(self.where))
            self.host = min(self.host, host_memory())

    def host_needed(self) -> int:
        """Host memory needed, in bytes; on a CPU only that of its ranks."""
        if self.where.type == "cuda":
            return self.host_at_first - self.host
        unit = 1 if sys.platform == "darwin" else 1024
        return LOCAL_RANKS * unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.join()


def refuse_what_cannot_fit(config, parameters: int, free: LeastFree) -> None:
    """Raise Refused if weights and optimizer state alone are too large.

    On a CPU the system would kill the process without a message.
    """
    needed, there = STATE_BYTES * parameters / dist.get_world_size(), free.device_at_first
    if free.where.type == "cpu" or config.offload:
        needed *= LOCAL_RANKS
        there = free.host_at_first
    if needed > there:
        raise Refused(
            f"this run does not fit: weights, gradients and optimizer state of "
            f"{parameters / GB:.2f} billion parameters take {needed / GB:.1f} GB, and "
            f"{there / GB:.1f} GB are free; {advice(config, 'building')}"
        )


@contextmanager
def sentences(config) -> Iterator[None]:
    """Turn an out-of-memory error in a `with` block into Refused with the flag to change."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:  # torch's own is a RuntimeError
        phase = phase_of(error)
        help = advice(config, phase) if is_out_of_memory(error) else vllm_advice(error)
        if help is None:
            raise
        raise Refused(f"this run does not fit: memory ran out while {phase}; {help}") from error


def phase_of(error: BaseException) -> str:
    """What the recipe was doing, by the functions that the error passed through."""
    names = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    if names & {"make_engine", "load_policy", "load_reference", "make_optimizer", "self_check"}:
        return "building"
    if "generate" in names:
        return "sampling"
    return "saving a checkpoint" if "save_checkpoint" in names else "training"


def is_out_of_memory(error: BaseException) -> bool:
    """Also torch's CPU allocator, which raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def advice(config, phase: str) -> str:
    """The flag that lowers the memory of a phase, as the end of a sentence."""
    longest = config.max_prompt_tokens + config.max_response_tokens
    if phase == "building":
        offload = "give --offload, " if torch.cuda.is_available() and not config.offload else ""
        return f"{offload}take a smaller --model, or more GPUs with torchrun"
    if phase == "sampling":
        return "lower --max_response_tokens, --prompts_per_step or --samples_per_prompt"
    if phase == "saving a checkpoint":
        return "it gathers the whole model in host memory: take a smaller --model"
    if not config.gradient_checkpointing:
        return "give --gradient_checkpointing true"
    if config.tokens_per_micro_batch >= 2 * longest:
        return f"lower --tokens_per_micro_batch, to {longest} at the least"
    if torch.cuda.is_available() and not config.offload:
        return "give --offload, or lower --engine_memory"
    return "lower --max_response_tokens"


def vllm_advice(error: BaseException) -> str | None:
    """Advice for vLLM's two start-up memory errors, else None."""
    text = str(error).lower()
    if "decrease gpu memory utilization" in text:
        return "lower --engine_memory, or free the GPU of other programs"
    if "gpu_memory_utilization" in text:
        return "raise --engine_memory, or lower --max_response_tokens and --eval_max_tokens"
    return None


# --- disk ---


@contextmanager
def scratch_folder(config) -> Iterator[Path]:
    """A temporary folder on the run's disk, the same on every rank.

    It is deleted at the end, also after an error, Ctrl-C or SIGTERM. Raises Refused if it cannot be
    made.
    """
    place = Path(config.out or "runs").expanduser().absolute()
    place = next(parent for parent in (place, *place.parents) if parent.exists())
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    name = [None]
    try:
        if dist.get_rank() == 0:
            try:
                name = [tempfile.mkdtemp(prefix=".check-", dir=place)]
            except OSError as error:
                raise Refused(
                    f"cannot write in {place} ({error.strerror}); give another --out"
                ) from error
        dist.broadcast_object_list(name, device=torch.device("cpu"))
        yield Path(name[0])
    finally:
        if dist.get_rank() == 0 and name[0]:
            shutil.rmtree(name[0], ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


# --- what follows from it ---


def what_it_needs(config, least: LeastFree, folder: Path, disk: int) -> dict[str, tuple]:
    """{resource: (bytes needed, bytes there, the flag that helps)}."""
    found = {}
    if least.device_at_first:
        there = least.device_at_first
        found["GPU memory"] = (there - least.device, there, advice(config, "training"))
    needed, there = least.host_needed(), least.host_at_first
    found["host memory"] = (needed, there, advice(config, "sampling"))
    (saved,) = (folder / "run" / "checkpoints").iterdir()
    size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    kept = (config.keep_checkpoints + 1) * size  # a new one is whole before an old one goes
    flag = "lower --keep_checkpoints, or give an --out on a larger disk"
    return found | {"disk": (kept, disk, flag)}


def what_does_not_fit(needs: dict[str, tuple]) -> list[str]:
    """One sentence for each resource of which there is too little."""
    return [
        f"this run does not fit: {name}, {(needed - there) / GB:.2f} GB too little; {flag}."
        for name, (needed, there, flag) in needs.items()
        if needed > there
    ]


def step_seconds(config, tried, step: dict) -> dict[str, float]:
    """Seconds of each phase of a whole step, from those of a step with fewer prompts."""
    times = config.prompts_per_step / tried.prompts_per_step
    phases = {name.removeprefix("seconds_"): spent for name, spent in step.items()}
    names = [name for name in ("rollout", "logps", "update", "keep") if name in phases]
    return {name: times * phases[name] for name in names} | {"sync": phases.get("sync", 0.0)}


def run_hours(config, tried, step: dict, held_out: int) -> float:
    """Hours of the whole run if every response has the largest length."""
    whole = config.steps * sum(step_seconds(config, tried, step).values())
    if config.eval_every:
        answers = held_out * config.eval_samples * config.eval_max_tokens
        sampled = tried.prompts_per_step * tried.samples_per_prompt * config.max_response_tokens
        evaluations = 1 + config.steps // config.eval_every
        whole += evaluations * step["seconds_rollout"] * answers / sampled
    return whole / 3600


def table(config, tried, step: dict, needs: dict, held_out: int, name: str) -> str:
    """The measurements and their consequences, as text."""
    lines = [
        f"\n{name}, {dist.get_world_size()} rank(s)",
        f"\n{'':{WIDTH}}{'needed':>12}{'there':>12}",
    ]
    for what, (needed, there, flag) in needs.items():
        spare = there - needed
        verdict = f"fits, {spare / GB:.2f} GB to spare" if spare >= 0 else f"does not fit: {flag}"
        lines.append(f"{what:{WIDTH}}{needed / GB:9.2f} GB{there / GB:9.2f} GB  {verdict}")
    phases = step_seconds(config, tried, step)
    parts = ", ".join(f"{phase} {spent:.3g}" for phase, spent in phases.items())
    hours = run_hours(config, tried, step, held_out)
    lines += [
        f"{'seconds a step':{WIDTH}}{sum(phases.values()):.3g} at most ({parts})",
        f"{'the whole run':{WIDTH}}{duration(hours)} at most, about {duration(hours / 2)} if "
        f"responses are half as long: {config.steps} steps and evaluations",
        "",
        f"Tried: {tried.prompts_per_step} of {config.prompts_per_step} prompts, with all "
        f"{tried.samples_per_prompt} responses at full length. Not counted: rewards, checkpoints, "
        f"and groups that a recipe samples and drops.",
    ]
    return "\n".join(lines)


def duration(hours: float) -> str:
    """0.02 -> "1.2 minutes", 30 -> "30 hours"."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
