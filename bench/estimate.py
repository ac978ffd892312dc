"""How long does a run take, and on which GPUs? Arithmetic that needs none.

    python -m bench.estimate justrl.py                      GPU-hours and days of the paper's run
    python -m bench.estimate justrl.py --small --mean 400   the responses' mean length in tokens
    python -m bench.estimate --public                       against runs that others have published

Nothing here was measured by us. A step is decoding and training, one after the other:

    decoding   every token of every response takes one pass. A pass reads the weights and the cache
               of the responses at hand from memory, at DECODING of the card's bandwidth, and costs
               PASS seconds besides. At the end, only the few longest responses are at hand.
    training   forward, backward, recomputation and old log-probs, at TRAINING of the card's peak

The three constants are the same for all runs and cards. They were chosen by hand, within what is
often reported, so that the runs of --public come out best. A result is good to a factor of two.
Rewards, checkpoints and evaluations, which take 1 to 6 % of the recipes' own runs, do not count.
"""

import argparse
from dataclasses import dataclass

import torch
from transformers import AutoConfig, PretrainedConfig

from bench.common import script_config
from bench.formula import (
    GB,
    MODELS,
    config_of,
    engine_tokens,
    kv_bytes_per_token,
    parameters,
    training_flops,
)

DECODING, PASS, TRAINING = 0.4, 0.015, 0.3
AT_ONCE = 256  # responses that vLLM decodes together, max_num_seqs
HOST_BANDWIDTH = 20 * GB  # bytes a second between a GPU and the host, and of AdamW in host memory


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet: gigabytes, dense bfloat16 TFLOP/s, terabytes a second."""

    gigabytes: float
    tflops: float
    bandwidth: float


CARDS = {
    "RTX 4090": Card(24, 165, 1.01),
    "A40": Card(48, 150, 0.70),
    "A100 or A800": Card(80, 312, 2.04),
    "H100": Card(80, 989, 3.35),
    "H200": Card(141, 989, 4.80),
}


@dataclass(frozen=True)
class Work:
    """What a step does. Lengths in tokens."""

    model: PretrainedConfig
    responses: float  # sampled a step
    mean: float  # of a response
    longest: float  # of a response
    prompt: float = 150
    passes: float = 4  # forward passes' worth of training: forward, recomputed, backward twice
    trained: float = 1  # share of the sampled responses that are trained on
    updates: int = 4
    offload: bool = False


def decoding_seconds(work: Work, card: Card, gpus: int, share: float) -> float:
    """Seconds in which each of the GPUs samples its part of the responses."""
    weights, kv = 2 * parameters(work.model), kv_bytes_per_token(work.model)
    cache = engine_tokens(work.model, card.gigabytes, share)
    mine = work.responses / gpus
    at_once = max(1.0, min(mine, AT_ONCE, cache / (work.prompt + work.mean)))
    passes = mine * work.mean / at_once
    read = weights + at_once * kv * (work.prompt + work.mean / 2)
    tail = max(0.0, work.longest - passes)  # passes in which few are left
    speed = DECODING * card.bandwidth * 1e12
    return passes * (read / speed + PASS) + tail * (weights / speed + PASS)


def training_seconds(work: Work, card: Card, gpus: int) -> float:
    sequences = work.trained * work.responses / gpus
    flops = training_flops(work.model, sequences, work.prompt + work.mean, work.passes)
    seconds = flops / (TRAINING * card.tflops * 1e12)
    if work.offload:  # AdamW reads and writes 28 bytes a parameter, and weights go to and fro
        seconds += work.updates * 40 * parameters(work.model) / HOST_BANDWIDTH
    return seconds


def step_seconds(work: Work, card: Card, gpus: int, share: float) -> float:
    return decoding_seconds(work, card, gpus, share) + training_seconds(work, card, gpus)


R1 = config_of("DeepSeek-R1-Distill-Qwen-1.5B")
QWEN_3B, QWEN_7B = config_of("Qwen2.5-3B"), config_of("Qwen2.5-7B")
# What others ran: [(steps, what a step does)]. Batches and limits are published. JustRL's mean
# length is the paper's (4 to 5 thousand); the others' are our guesses.
JUSTRL = [(4380, Work(R1, 2048, 4700, 15360, passes=4.75))]
ON_MATH = [(20, Work(config_of("Qwen2.5-Math-1.5B"), 256, 450, 1024, updates=1))]
DEEPSCALER = [
    (1040, Work(R1, 1024, 4000, 8192, passes=6)),
    (500, Work(R1, 2048, 4500, 16384, passes=6)),
    (215, Work(R1, 2048, 6000, 24576, passes=6)),
]
PRORL = [(2000, Work(R1, 2 * 4096, 5500, 8192, passes=5.75, trained=0.5))]
AHA_MOMENT = [(1000, Work(QWEN_3B, 64, 500, 1024, passes=5, updates=1))]
OPEN_RS = [(500, Work(R1, 72, 2500, 3584, passes=5, updates=1))]
SIMPLE_RL = [(100, Work(QWEN_7B, 8192, 700, 8192, passes=6))]

# {run: (what it did, card, GPUs, vLLM's share, GPU-hours)}, of the runs' papers, READMEs and cards.
PUBLIC = {
    "JustRL, 15 days": (JUSTRL, "A100 or A800", 32, 0.6, 15 * 24 * 32),
    "Qwen2.5-Math-1.5B on MATH (garg), 28 min": (ON_MATH, "RTX 4090", 1, 0.35, 28 / 60),
    "the same, tuned, 10 min": (ON_MATH, "H100", 1, 0.35, 10 / 60),
    "the same, the 4090's flags, 18 min": (ON_MATH, "H100", 1, 0.35, 18 / 60),
    # 8 GPUs, then 32
    "DeepScaleR, 3,800 GPU-hours": (DEEPSCALER, "A100 or A800", 20, 0.6, 3800),
    "ProRL, 16,000 GPU-hours": (PRORL, "H100", 32, 0.6, 16000),
    "nanoAhaMoment 3B, 10 hours": (AHA_MOMENT, "H100", 1, 0.3, 10),
    "Open-RS, 24 hours": (OPEN_RS, "A40", 4, 0.7, 96),
    "SimpleRL-Zoo 7B, 15 hours": (SIMPLE_RL, "H100", 16, 0.6, 240),
}


def public_table() -> str:
    """Markdown: GPU-hours that others report, and by this arithmetic."""
    lines = ["| run | on | GPU-hours | estimated | ratio |", "|---|---|---:|---:|---:|"]
    for name, (stages, card, gpus, share, published) in PUBLIC.items():
        seconds = [n * step_seconds(work, CARDS[card], gpus, share) for n, work in stages]
        hours = gpus * sum(seconds) / 3600
        cells = [name, f"{gpus} x {card}", figure(published), figure(hours)]
        lines.append(f"| {' | '.join(cells)} | {hours / published:.2f} |")
    return "\n".join(lines)


def figure(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def work_of(config, model: PretrainedConfig, mean: float) -> Work:
    """What a step of a recipe does, by its config."""
    passes = 4 + (1 - 1 / config.updates_per_step)  # the first mini-batch's come with its update
    passes += 1 if getattr(config, "kl_coefficient", 0) else 0
    # Where groups of equal rewards are sampled anew, about half are kept: an assumption.
    resampled = hasattr(config, "max_rounds") and getattr(config, "dynamic_sampling", "") != "off"
    trained = 0.5 if resampled else 1.0
    return Work(
        model,
        responses=config.prompts_per_step * config.samples_per_prompt / trained,
        mean=mean,
        longest=config.max_response_tokens,
        passes=passes,
        trained=trained,
        updates=config.updates_per_step,
        offload=config.offload,
    )


def table(config, work: Work) -> str:
    """Markdown: days or hours of a run by card and number of GPUs, as a range."""
    lines = ["| card | 1 GPU | 8 GPUs | 32 GPUs | GPU-hours on 8 |", "|---|---:|---:|---:|---:|"]
    for name, card in CARDS.items():
        cells, hours = [], {}
        for gpus in (1, 8, 32):
            seconds = step_seconds(work, card, gpus, config.engine_memory)
            hours[gpus] = config.steps * seconds / 3600
            state = 0 if config.offload else 16 * parameters(work.model) / gpus
            fits = state + 2 * parameters(work.model) < card.gigabytes * GB
            cells.append(in_words(hours[gpus]) if fits else "does not fit")
        cells.append(f"{8 * hours[8]:,.0f}")
        lines.append(f"| {name}, {card.gigabytes:.0f} GB | {' | '.join(cells)} |")
    return "\n".join(lines)


def in_words(hours: float) -> str:
    """From half to twice as long: 10 -> "5 to 20 hours"."""
    unit, size = ("days", 24) if hours > 48 else ("hours", 1)
    return f"{figure(hours / 2 / size)} to {figure(hours * 2 / size)} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", nargs="?", help="justrl.py, prorl.py, liteppo.py, lab.table1")
    parser.add_argument("--mean", type=float, help="mean response, in tokens (0.4 of the longest)")
    parser.add_argument("--public", action="store_true", help="the runs that others published")
    arguments, flags = parser.parse_known_args()
    if arguments.public or not arguments.script:
        print(public_table())
        return
    torch.cuda.is_available = lambda: True  # or the paper's scale is refused
    config = script_config(arguments.script, flags)
    known = config.model.split("/")[-1] in MODELS
    model = config_of(config.model) if known else AutoConfig.from_pretrained(config.model)
    mean = arguments.mean or 0.4 * config.max_response_tokens
    print(f"{arguments.script}: {config.steps} steps, responses of {mean:,.0f} tokens, estimated\n")
    print(table(config, work_of(config, model, mean)))


if __name__ == "__main__":
    main()
