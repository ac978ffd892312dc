"""`--check`: does a run fit on this machine, how long will it take, and which flag helps?

    python justrl.py --small --check
    torchrun --nproc-per-node 8 justrl.py --check

It builds what the run would build, on the ranks that it would have, and does the hardest part of a
step once: it samples and trains a micro-batch of the longest prompts and responses that the flags
allow, pushes the weights, saves a checkpoint and loads it again. Memory is measured. Times are
estimates: unit costs, measured here, times what the flags ask for. Nothing is left behind.
"""

import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

import losses
from trainer.data import Problem, Rollout, Sampling, Template, encode_prompts
from trainer.errors import Refused
from trainer.machine import device_memory, host_memory
from trainer.policy.loading import load_policy, load_reference
from trainer.policy.policy import (
    make_optimizer,
    on_device,
    optimizer_step,
    response_mask,
    set_learning_rate,
)
from trainer.policy.pretrained import load_tokenizer
from trainer.ranks import start_ranks
from trainer.run.checkpoint import load_checkpoint, save_checkpoint
from trainer.sampler.engine import make_engine, self_check
from trainer.sources.load import load_problems

GB = 1e9
BURST = 16  # tokens of each response over which decoding is timed
AT_ONCE = 256  # responses that vLLM decodes together
STATE_BYTES = 16  # of a parameter: float32 weight, gradient and AdamW's two moments
SAVED_BYTES = 12  # of a parameter in a checkpoint: all of these but the gradient
KEPT_SHARE = 0.5  # of ProRL's groups, assumed: the others are sampled for nothing
WIDTH = 24  # columns of the table's first column


@dataclass
class Costs:
    """What was measured, each the largest over the ranks. Memory in bytes, the rest in seconds."""

    params: int = 0
    prompt_tokens: float = 0.0  # mean length of the prompts
    held_out: int = 0  # problems
    at_once: int = 0  # responses sampled together
    prefill: float = 0.0  # of the prompts of these responses
    decode: float = 0.0  # one more token of each of these responses
    forward: float = 0.0  # of one padded token
    update: float = 0.0  # forward and backward, of one padded token
    optimizer: float = 0.0  # one step
    push: float = 0.0
    save: float = 0.0
    disk: int = 0  # of one checkpoint
    device_peak: int = 0  # of this rank's GPU
    host_peak: int = 0  # of all ranks together
    build: float = 0.0  # until training can begin


def check(config, model_dir: str) -> None:
    """Measure, print the table, and raise Refused, with the flag to change, if it does not fit.

    model_dir: the folder or hub id that --model stands for. Raises what building a run raises; an
    out-of-memory error becomes a Refused error.
    """
    device = start_ranks(one_thread=config.tiny)
    room = {"device": device_memory(device), "host": host_memory()}
    refuse_what_cannot_fit(config, model_dir, device, room)
    with scratch_folder(config) as folder:
        room["disk"] = shutil.disk_usage(folder).free
        costs = measure(config, model_dir, device, folder)
    if dist.get_rank() == 0:
        print(table(config, costs, room, str(device)))
    if faults := what_does_not_fit(config, costs, room):
        raise Refused(" ".join(faults))


# --- memory ---


def host_peak() -> int:
    """The most host memory that this process has ever had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class DevicePeak:
    """The most memory of the GPU in use, by torch and by vLLM, over the phases of a check."""

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0
        self.free_at_start = device_memory(device)
        self.reset()

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def note(self) -> None:
        """A phase has ended. What vLLM holds outside torch's allocator is seen at this moment."""
        if self.device.type == "cuda":
            used = self.free_at_start - device_memory(self.device)
            outside = max(0, used - torch.cuda.memory_reserved(self.device))
            self.bytes = max(self.bytes, outside + torch.cuda.max_memory_reserved(self.device))
            self.reset()


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


@contextmanager
def phase(config, name: str) -> Iterator[None]:
    """Turn an out-of-memory error of a `with` block into the sentence of which flag to change."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:  # torch's own is a RuntimeError
        help = advice(config, name) if is_out_of_memory(error) else vllm_advice(error)
        if help is None:
            raise
        raise Refused(f"this run does not fit: memory ran out while {name}; {help}") from error


def vllm_advice(error: BaseException) -> str | None:
    """The same where vLLM finds too little memory at its start; None for any other error."""
    text = str(error).lower()
    if "decrease gpu memory utilization" in text:
        return "lower --engine_memory, or free the GPU of other programs"
    if "gpu_memory_utilization" in text:
        return "raise --engine_memory, or lower --max_response_tokens and --eval_max_tokens"
    return None


def parameters(model_dir: str) -> int:
    """Weights of a model, from its config alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir))
    return model.num_parameters()


def refuse_what_cannot_fit(config, model_dir: str, device: torch.device, room: dict) -> None:
    """Raise Refused if weights and optimizer state alone are too large.

    On a CPU the system would end the process without a word.
    """
    count, ranks = parameters(model_dir), dist.get_world_size()
    where = "device" if device.type == "cuda" and not config.offload else "host"
    needed = STATE_BYTES * count / (ranks if where == "device" else 1)
    if needed > room[where]:
        raise Refused(
            f"this run does not fit: weights, gradients and optimizer state of {count / GB:.2f} "
            f"billion parameters take {needed / GB:.1f} GB, and {room[where] / GB:.1f} GB are free;"
            f" {advice(config, 'building')}"
        )


# --- disk ---


@contextmanager
def scratch_folder(config) -> Iterator[Path]:
    """A folder on the disk of the run's own, the same on every rank, and gone afterwards.

    Also after an error, Ctrl-C or SIGTERM. Raises Refused if none can be made.
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
        dist.broadcast_object_list(name)
        yield Path(name[0])
    finally:
        if dist.get_rank() == 0 and name[0]:
            shutil.rmtree(name[0], ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- what is measured ---


def seconds(work: Callable) -> tuple[float, object]:
    """How long work() takes, and what it returns."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def measure(config, model_dir: str, device: torch.device, folder: Path) -> Costs:
    """Build the run, do the hardest part of a step once, and note what it took."""
    peak, start = DevicePeak(device), time.perf_counter()
    with phase(config, "building"):
        tokenizer = load_tokenizer(model_dir)
        template = Template(config.instruction, max_tokens=config.max_prompt_tokens)
        problems = encode_prompts(load_problems(config.data), tokenizer, template)
        held_out = []
        if config.eval_every:
            held_out = encode_prompts(load_problems(config.eval_data), tokenizer, template)
        samplings = [Sampling(config.max_response_tokens), Sampling(config.eval_max_tokens)]
        engine = make_engine(config, model_dir, tokenizer, samplings, raw_logps=False)
        policy = load_policy(config, model_dir, device)
        optimizer = make_optimizer(policy, config.weight_decay)
        state = {"step": 0, "position": 0, "data": ""}
        if hasattr(config, "kl_coefficient"):
            state["reference"] = load_reference(model_dir, device)
        engine.load_weights(policy)
        self_check(engine, policy, problems[0].prompt_ids)
    costs = Costs(
        params=sum(parameter.numel() for parameter in policy.parameters()),
        prompt_tokens=fmean(len(problem.prompt_ids) for problem in problems),
        held_out=len(held_out),
        build=time.perf_counter() - start,
    )
    peak.note()
    with phase(config, "sampling"):
        rollouts, cache = sample(config, engine, problems, costs)
        costs.host_peak = host_now() + cache if device.type == "cpu" else 0
        peak.note()
        peak.bytes += cache if device.type == "cuda" else 0
    with phase(config, "training"):
        engine.sleep()
        train(config, policy, optimizer, state.get("reference"), rollouts, device, costs)
        peak.note()
        costs.push, _ = seconds(lambda: engine.load_weights(policy))
        engine.generate([problems[0].prompt_ids], 1, [0], Sampling(1))
        peak.note()
    with phase(config, "saving a checkpoint"):
        save_and_load(config, folder, state, policy, tokenizer, optimizer, costs)
        peak.note()
    costs.device_peak = peak.bytes
    costs.host_peak = max(costs.host_peak, host_peak())
    return over_ranks(costs)


def host_now() -> int:
    """Host memory of this process, in bytes; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return host_peak()
    return os.sysconf("SC_PAGE_SIZE") * int(statm.read_text().split()[1])


def resamples(config) -> bool:
    """Whether a step samples more groups than it trains on, until enough of them are mixed."""
    return hasattr(config, "max_rounds") and getattr(config, "dynamic_sampling", "") != "off"


def longest_prompts(problems: list[Problem], count: int, length: int, start: int = 0):
    """`count` different prompts of `length` tokens, made of the problems' own."""
    ids = list(chain.from_iterable(problem.prompt_ids for problem in problems[:1000]))
    return [list(islice(cycle(ids), start + 7 * p, start + 7 * p + length)) for p in range(count)]


def micro_batch_rows(config) -> int:
    """Responses of full length that one micro-batch holds."""
    longest = config.max_prompt_tokens + config.max_response_tokens
    responses = config.prompts_per_step * config.samples_per_prompt
    most = math.ceil(responses / config.updates_per_step / dist.get_world_size())
    return max(1, min(most, config.tokens_per_micro_batch // longest))


def sample(config, engine, problems: list[Problem], costs: Costs) -> tuple[list[Rollout], int]:
    """Time the engine, and sample a micro-batch of responses at full length.

    Returns these, and the bytes by which the cache of all responses at once, at full length, is
    larger than what has been measured: 0 for vLLM, which sets its cache aside at the start.
    """
    engine.stop_ids = engine.stop_ids[:0]  # so that no response ends early
    count, limit = config.samples_per_prompt, config.max_response_tokens
    mine = math.ceil(config.prompts_per_step / dist.get_world_size())
    if hasattr(engine, "prompts_at_once"):
        most = engine.prompts_at_once(count, config.max_prompt_tokens + limit)
    else:
        most = math.ceil(AT_ONCE / count)
    prompts = min(mine, most)
    costs.at_once = prompts * count
    burst, times = min(BURST, limit - 1), []
    for start, tokens in ((0, 1), (1, 1), (2, 1 + burst)):  # the first round warms the engine up
        ids = longest_prompts(problems, prompts, config.max_prompt_tokens, start)
        sampling = Sampling(tokens, config.temperature)
        spent, _ = seconds(partial(engine.generate, ids, count, list(range(prompts)), sampling))
        times.append(spent)
    costs.prefill = times[1]
    if burst:
        costs.decode = max(0.0, times[2] - times[1]) / burst

    rows = micro_batch_rows(config)
    ids = longest_prompts(problems, rows, config.max_prompt_tokens, 3)
    sampling = Sampling(limit, config.temperature)
    spent, groups = seconds(partial(engine.generate, ids, 1, list(range(rows)), sampling))
    costs.decode = max(costs.decode, spent / limit if rows <= costs.at_once else 0.0)
    rollouts = list(chain(*groups))
    for rollout in rollouts:  # vLLM ends a response at the model's own end of text
        rollout.response_ids = np.resize(rollout.response_ids, limit)
        rollout.logps = np.resize(rollout.logps, limit)
    return rollouts, cache_bytes(config, engine, costs.at_once)


def cache_bytes(config, engine, responses: int) -> int:
    """Bytes of the key-value cache of that many responses at full length."""
    longest = config.max_prompt_tokens + config.max_response_tokens
    return getattr(engine, "bytes_per_token", 0) * longest * responses


def train(config, policy, optimizer, reference, rollouts, device, costs: Costs) -> None:
    """Train on one micro-batch, twice: the second time is timed."""
    advantages = torch.tensor([(-1.0) ** row for row in range(len(rollouts))])
    weights_B_R = losses.token_weights(response_mask(rollouts), "token")
    micro, *_ = policy.cut(rollouts, advantages, weights_B_R)
    tokens = micro.ids_B_T.numel()

    def forward():
        with torch.no_grad():
            micro.old_logps_M, micro.entropy_M = policy(micro, config.temperature)

    def refer():
        with torch.no_grad(), on_device(reference) as model:
            micro.ref_logps_M, _ = model(micro, config.temperature)

    def backward():
        logps_M, _ = policy(micro, config.temperature)
        loss_M = losses.clipped_policy_loss(
            logps_M, micro.old_logps_M, micro.advantages_M, config.clip_low, config.clip_high
        )
        if reference is not None:
            loss_M = loss_M + losses.kl_penalty(logps_M, micro.ref_logps_M, config.kl_estimator)
        (micro.weights_M * loss_M).sum().backward()

    set_learning_rate(optimizer, config.learning_rate, step=1, warmup_steps=0)
    for _ in range(2):
        share = 1 - 1 / config.updates_per_step  # the first mini-batch's come with the update
        costs.forward = share * seconds(forward)[0] / tokens
        if reference is not None:
            costs.forward += seconds(refer)[0] / tokens
        costs.update = seconds(backward)[0] / tokens
        costs.optimizer, _ = seconds(lambda: optimizer_step(policy, optimizer, 1.0))


def save_and_load(config, folder: Path, state, policy, tokenizer, optimizer, costs: Costs) -> None:
    """Save and load once. Raises Refused, before it writes, if the disk is too small."""
    needed, free = SAVED_BYTES * costs.params, shutil.disk_usage(folder).free
    if needed > free:
        raise Refused(
            f"this run does not fit: a checkpoint takes {needed / GB:.1f} GB, and {free / GB:.1f} "
            f"GB of disk are free; give an --out on a larger disk"
        )
    save = partial(save_checkpoint, folder, state, policy, tokenizer, optimizer, keep=1)
    costs.save, _ = seconds(save)
    saved = folder / "checkpoints" / "step_000000"
    costs.disk = size_of(saved)
    load_checkpoint(saved, state, policy, optimizer)


def over_ranks(costs: Costs) -> Costs:
    """The largest of every number over the ranks; host memory is that of the ranks of a node."""
    names = [name for name, value in vars(costs).items() if isinstance(value, int | float)]
    values = torch.tensor([float(getattr(costs, name)) for name in names], dtype=torch.float64)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    for name, value in zip(names, values.tolist(), strict=True):
        setattr(costs, name, type(getattr(costs, name))(value))
    costs.host_peak *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return costs


# --- what follows from it ---


def step_seconds(config, costs: Costs, length: float) -> dict[str, float]:
    """Seconds of each phase of a step whose responses all have that many tokens."""
    ranks = dist.get_world_size()
    mine = config.prompts_per_step * config.samples_per_prompt / ranks
    rounds = mine / costs.at_once / (KEPT_SHARE if resamples(config) else 1.0)
    tokens = mine * (costs.prompt_tokens + length)
    return {
        "rollout": rounds * (costs.prefill + length * costs.decode),
        "logps": tokens * costs.forward,
        "update": tokens * costs.update + config.updates_per_step * costs.optimizer,
        "sync": costs.push,
    }


def run_hours(config, costs: Costs, share: float) -> float:
    """Hours of the whole run if responses are that share of the longest."""
    step = sum(step_seconds(config, costs, share * config.max_response_tokens).values())
    whole = costs.build + config.steps * step
    if config.eval_every:
        answers = costs.held_out * config.eval_samples / dist.get_world_size()
        once = costs.prefill + share * config.eval_max_tokens * costs.decode
        whole += (1 + config.steps // config.eval_every) * answers / costs.at_once * once
    saves = 1 + (config.steps // config.save_every if config.save_every else 0)
    return (whole + saves * costs.save) / 3600


def needs(config, costs: Costs, room: dict) -> dict[str, tuple[float, float, str]]:
    """{resource: (bytes needed, bytes there, the flag that helps)}."""
    found = {}
    if room["device"]:
        flag = advice(config, "training")
        found["GPU memory, a rank"] = (costs.device_peak, room["device"], flag)
    found["host memory"] = (costs.host_peak, room["host"], advice(config, "sampling"))
    kept = (config.keep_checkpoints + 1) * costs.disk  # a new one is whole before an old one goes
    flag = "lower --keep_checkpoints, or give an --out on a larger disk"
    found["disk"] = (kept, room["disk"], flag)
    return found


def what_does_not_fit(config, costs: Costs, room: dict) -> list[str]:
    """One sentence for each resource of which there is too little."""
    return [
        f"this run does not fit: {name}, {(needed - there) / GB:.2f} GB too little; {flag}."
        for name, (needed, there, flag) in needs(config, costs, room).items()
        if needed > there
    ]


def table(config, costs: Costs, room: dict, device: str) -> str:
    """The measurements and what follows from them, for people."""
    ranks = dist.get_world_size()
    lines = [
        f"\n{config.model}, {costs.params / 1e6:,.1f} M parameters, {ranks} rank(s) on {device}",
        f"\n{'':{WIDTH}}{'needed':>12}{'there':>12}",
    ]
    for name, (needed, there, flag) in needs(config, costs, room).items():
        spare = there - needed
        verdict = f"fits, {spare / GB:.2f} GB to spare" if spare >= 0 else f"does not fit: {flag}"
        lines.append(f"{name:{WIDTH}}{needed / GB:9.2f} GB{there / GB:9.2f} GB  {verdict}")
    whole = step_seconds(config, costs, config.max_response_tokens)
    parts = ", ".join(f"{name} {spent:.3g}" for name, spent in whole.items())
    half = sum(step_seconds(config, costs, config.max_response_tokens / 2).values())
    lines += [
        f"{'seconds a step':{WIDTH}}{sum(whole.values()):.3g} at most ({parts}); {half:.3g} if "
        f"responses are half as long",
        f"{'the whole run':{WIDTH}}{duration(run_hours(config, costs, 1.0))} at most, "
        f"{duration(run_hours(config, costs, 0.5))} if responses are half as long: {config.steps} "
        f"steps, evaluations and checkpoints",
        "",
        f"Estimated from {costs.at_once / max(costs.decode, 1e-9):,.0f} tokens a second sampled, "
        f"{costs.at_once} responses at once, and {1 / costs.update:,.0f} tokens a second trained, "
        f"at full length, on each rank.",
    ]
    if resamples(config):
        lines.append(f"Assumed: {KEPT_SHARE:.0%} of the sampled groups have mixed rewards.")
    return "\n".join(lines)


def duration(hours: float) -> str:
    """0.02 -> "1.2 minutes", 30 -> "30 hours"."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
