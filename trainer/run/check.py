"""`--check`: does a run fit on this machine, how long will it take, and which flag helps?

    python justrl.py --small --check
    torchrun --nproc-per-node 8 justrl.py --check

It runs the recipe's own main for two steps without evaluations, in a folder that it deletes, with
prompts and responses as long as the flags allow, and only as many as the measurement needs. The
first step allocates the optimizer's state, the second one is timed.
"""

import dataclasses
import io
import math
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import chain, cycle, islice
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.data import chat_ids
from trainer.errors import Refused
from trainer.machine import LOCAL_RANKS, LeastFree
from trainer.policy.pretrained import load_tokenizer
from trainer.ranks import from_all_ranks, start_ranks
from trainer.run.files import make_folder, read_jsonl, write_jsonl
from trainer.sources.load import load_problems

GB = 1e9
TOKENS = 2**20  # that a rank samples in one step of a check, if the run samples so many
STATE_BYTES = 16  # of a parameter: float32 weight, gradient and AdamW's two moments
SAVED_BYTES = 12  # of a parameter in a checkpoint: all of these but the gradient

# Every second response is right: a recipe that drops groups of equal rewards drops none.
REWARD = "def alternate(texts, answers, rows):\n    return [i % 2 for i in range(len(texts))]\n"


def check(main: Callable, config, model_dir: str) -> None:
    """Run main(config) at its largest, and print what it took.

    model_dir: the folder or hub id of --model. Raises Refused, with the flag to change, if the run
    does not fit. Exceptions of main pass through.
    """
    device = start_ranks(one_thread=config.tiny)
    least = LeastFree(device)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir))
    parameters = model.num_parameters()
    with scratch_folder(config) as folder:
        kept = config.keep_checkpoints + 1  # a new one is whole before an old one goes
        flag = "lower --keep_checkpoints, or give an --out on a larger disk"
        there = shutil.disk_usage(folder).free
        disk = Need("disk", kept * SAVED_BYTES * parameters, there, flag)
        refuse_too_little([state_needed(config, parameters, least), disk])
        held_out = len(load_problems(config.eval_data)) if config.eval_every else 0
        hardest = at_its_hardest(config, model_dir, folder)
        with sentences(config), least, redirect_stdout(io.StringIO()):
            main(hardest)
        needs = from_all_ranks([*memory_needed(config, least), disk])[0]  # so all ranks end alike
        if dist.get_rank() == 0:
            steps = read_jsonl(folder / "run" / "metrics.jsonl")
            if len(steps) < hardest.steps:  # Ctrl-C: the run has ended early
                raise KeyboardInterrupt
            what = f"{config.model}, {parameters / 1e6:,.1f} M parameters, on {device}"
            print(f"\n{what}, {dist.get_world_size()} rank(s)\n\n{table(needs)}")
            print(times(config, hardest, steps[-1], held_out))
    refuse_too_little(needs)


# --- what is tried ---


def at_its_hardest(config, model_dir: str, folder: Path):
    """The config of a run of two short steps that needs as much memory as the real one.

    Each step has as many prompts as fill two micro-batches of every update on every rank, and more
    until each rank samples TOKENS tokens, if the run has so many.
    """
    longest, ranks = config.max_prompt_tokens + config.max_response_tokens, dist.get_world_size()
    fit = max(1, config.tokens_per_micro_batch // longest)  # into a micro-batch
    answers = ranks * max(2 * fit * config.updates_per_step, TOKENS // longest)
    prompts = min(config.prompts_per_step, math.ceil(answers / config.samples_per_prompt))
    # The engine also reserves memory for evaluations, whose answers may be longer.
    answer = max(config.max_response_tokens, config.eval_max_tokens if config.eval_every else 0)
    text = longest_problem(config, load_tokenizer(model_dir))
    if dist.get_rank() == 0:
        rows = [{"problem": f"{i} {text}", "answer": "1"} for i in range(prompts)]
        write_jsonl(folder / "problems.jsonl", rows)
        (folder / "reward.py").write_text(REWARD)
    dist.barrier()
    return dataclasses.replace(
        config,
        check=True,  # responses do not end early
        steps=2,
        prompts_per_step=prompts,
        max_prompt_tokens=config.max_prompt_tokens + answer - config.max_response_tokens,
        data=str(folder / "problems.jsonl"),
        reward=f"{folder / 'reward.py'}:alternate",
        out=str(folder / "run"),
        eval_every=0,
        save_every=0,
        keep_checkpoints=1,
        decontaminate=False,
        report_to="none",
        push_to_hub="",
    )


def longest_problem(config, tokenizer) -> str:
    """A problem whose prompt has nearly max_prompt_tokens tokens, made of the run's own text."""
    limit = config.max_prompt_tokens - 12  # room for a number, and for a recipe's own template
    letters = chain.from_iterable(cycle(problem.text for problem in load_problems(config.data)))
    text = "".join(islice(letters, 6 * config.max_prompt_tokens))
    while (over := len(chat_ids(tokenizer, text + config.instruction)) - limit) > 0 and text:
        text = text[: -math.ceil(over / 4)]
    return text


# --- memory and disk ---


class Need(NamedTuple):
    """What a run takes of a resource, in bytes, and the flag that helps."""

    name: str
    needed: float
    there: float
    flag: str


def state_needed(config, parameters: int, free: LeastFree) -> Need:
    """What has to fit before anything is loaded: on a CPU the system would kill the process."""
    needed, there = STATE_BYTES * parameters / dist.get_world_size(), free.device_at_first
    if free.where.type == "cpu" or config.offload:
        needed *= LOCAL_RANKS
        there = free.host_at_first
    name = "weights, gradients and optimizer state"
    return Need(name, needed, there, advice(config, "building"))


def memory_needed(config, least: LeastFree) -> list[Need]:
    there, host = least.device_at_first, least.host_at_first
    needs = [Need("GPU memory", there - least.device, there, advice(config, "training"))]
    needs += [Need("host memory", least.host_needed(), host, advice(config, "sampling"))]
    return needs if there else needs[1:]  # no GPU


def refuse_too_little(needs: list[Need]) -> None:
    """Raise Refused with the name of each resource of which there is too little."""
    faults = [
        f"{name}, {(needed - there) / GB:.2f} GB too little; {flag}"
        for name, needed, there, flag in needs
        if needed > there
    ]
    if faults:
        raise Refused(f"this run does not fit: {'. '.join(faults)}")


@contextmanager
def sentences(config) -> Iterator[None]:
    """Turn an out-of-memory error in a `with` block into Refused with the flag to change."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:
        names = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        phase = "sampling" if "generate" in names else "training"
        if names & {"make_engine", "load_policy", "load_reference", "make_optimizer", "self_check"}:
            phase = "building"
        text = str(error).lower()
        torchs = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if torchs or "can't allocate memory" in text:  # the words are those of its CPU allocator
            help = advice(config, phase)
        elif "decrease gpu memory utilization" in text:  # words of vLLM's two errors
            help = "lower --engine_memory, or free the GPU of other programs"
        elif "gpu_memory_utilization" in text:
            help = "raise --engine_memory, or lower --max_response_tokens and --eval_max_tokens"
        else:
            raise
        raise Refused(f"this run does not fit: memory ran out while {phase}; {help}") from error


def advice(config, phase: str) -> str:
    """The flag that lowers the memory of a phase, as the end of a sentence."""
    longest = config.max_prompt_tokens + config.max_response_tokens
    may_offload = torch.cuda.is_available() and not config.offload
    if phase == "building":
        offload = "give --offload, " if may_offload else ""
        return f"{offload}take a smaller --model, or more GPUs with torchrun"
    if phase == "sampling":
        return "lower --max_response_tokens, --prompts_per_step or --samples_per_prompt"
    if not config.gradient_checkpointing:
        return "give --gradient_checkpointing true"
    if config.tokens_per_micro_batch >= 2 * longest:
        return f"lower --tokens_per_micro_batch, to {longest} at the least"
    if may_offload:
        return "give --offload, or lower --engine_memory"
    return "lower --max_response_tokens"


@contextmanager
def scratch_folder(config) -> Iterator[Path]:
    """A temporary folder on the run's disk, the same on every rank.

    It is deleted at the end, also after an error, Ctrl-C or SIGTERM. Raises Refused if it cannot be
    made.
    """
    place = Path(config.out or "runs").expanduser().absolute()
    place = next(parent for parent in (place, *place.parents) if parent.exists())
    folder = from_all_ranks(place / f".check-{os.getpid()}")[0]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        make_folder(folder)
        yield folder
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


# --- what is printed ---


def table(needs: list[Need]) -> str:
    lines = [f"{'':24}{'needed':>12}{'there':>12}"]
    for name, needed, there, _ in needs:
        verdict = "fits" if needed <= there else "does not fit"
        lines.append(f"{name:24}{needed / GB:9.2f} GB{there / GB:9.2f} GB  {verdict}")
    return "\n".join(lines)


def times(config, tried, step: dict, held_out: int) -> str:
    """How long the run takes if all responses are the longest, as text.

    step: the metrics of a tried step. held_out: the number of held-out problems.
    """
    grows = sum(step.get(f"seconds_{name}", 0.0) for name in ("rollout", "logps", "update", "keep"))
    grows *= config.prompts_per_step / tried.prompts_per_step
    seconds = grows + step.get("seconds_sync", 0.0)
    hours = config.steps * seconds / 3600
    if config.eval_every:
        answers = held_out * config.eval_samples * config.eval_max_tokens
        sampled = tried.prompts_per_step * tried.samples_per_prompt * config.max_response_tokens
        evaluations = 1 + config.steps // config.eval_every
        hours += evaluations * step["seconds_rollout"] * answers / sampled / 3600
    whole = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
    return (
        f"{'seconds a step':24}{seconds:.3g} at most\n"
        f"{'the whole run':24}{whole} at most, half of it if responses are half as long\n\n"
        f"Tried: {tried.prompts_per_step} of {config.prompts_per_step} prompts, with all "
        f"{tried.samples_per_prompt} responses at full length. Not counted: rewards, checkpoints, "
        f"and groups that a recipe samples and drops."
    )
