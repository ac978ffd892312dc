"""How long does a run take, and on which GPUs? Arithmetic that needs none.

    python -m bench.estimate justrl.py                      GPU-hours and days of the paper's run
    python -m bench.estimate justrl.py --small --mean 400   the responses' mean length in tokens

Nothing here was measured by us. A step is decoding and training, one after the other:

    decoding   every token of every response takes one pass. A pass reads the weights and the cache
               of the responses at hand from memory, at DECODING of the card's bandwidth, and costs
               PASS seconds besides. At the end, only the few longest responses are at hand.
    training   forward, backward, recomputation and old log-probs, at TRAINING of the card's peak

The three constants are the same for all runs and cards. They were chosen by hand, within what is
often reported, so that nine published runs come out best (docs/speed.md). A result is good to a
factor of two. Rewards, checkpoints and evaluations, which take 1 to 6 % of the recipes' own runs,
do not count.
"""

import argparse
import math
from typing import NamedTuple

import torch
from transformers import PretrainedConfig

from bench.common import script_config
from bench.formula import (
    GB,
    config_of,
    engine_tokens,
    kv_bytes_per_token,
    parameters,
    training_flops,
)

DECODING, PASS, TRAINING = 0.4, 0.015, 0.3
AT_ONCE = 256  # responses that vLLM decodes together, max_num_seqs
PROMPT = 150  # tokens of a prompt
HOST_BANDWIDTH = 20 * GB  # bytes a second between a GPU and the host, and of AdamW in host memory


class Card(NamedTuple):
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


def decoding_seconds(
    model: PretrainedConfig, responses: float, mean: float, longest: float, card: Card, share: float
) -> float:
    """Seconds in which one GPU samples responses of this mean and longest length in tokens."""
    weights, kv = 2 * parameters(model), kv_bytes_per_token(model)
    cache = engine_tokens(model, card.gigabytes, share)
    at_once = max(1.0, min(responses, AT_ONCE, cache / (PROMPT + mean)))
    passes = responses * mean / at_once
    read = weights + at_once * kv * (PROMPT + mean / 2)
    tail = max(0.0, longest - passes)  # passes in which few are left
    speed = DECODING * card.bandwidth * 1e12
    return passes * (read / speed + PASS) + tail * (weights / speed + PASS)


def step_seconds(config, model: PretrainedConfig, mean: float, card: Card, gpus: int) -> float:
    """Seconds of a recipe's step whose responses have a mean length."""
    trained = sampled = config.prompts_per_step * config.samples_per_prompt / gpus
    if hasattr(config, "max_rounds") and getattr(config, "dynamic_sampling", "") != "off":
        sampled *= 2  # groups of equal rewards are sampled anew; about half are kept: an assumption
    longest, share = config.max_response_tokens, config.engine_memory
    seconds = decoding_seconds(model, sampled, mean, longest, card, share)
    # Forward, recomputed, backward (twice); old log-probs, but for the first mini-batch's, which
    # come with its update; and a reference's.
    passes = 4 + (1 - 1 / config.updates_per_step) + bool(getattr(config, "kl_coefficient", 0))
    flops = training_flops(model, trained, PROMPT + mean, passes)
    seconds += flops / (TRAINING * card.tflops * 1e12)
    if config.offload:  # AdamW reads and writes 28 bytes a parameter, and weights go to and fro
        seconds += config.updates_per_step * 40 * parameters(model) / HOST_BANDWIDTH
    return seconds


def table(config, model: PretrainedConfig, mean: float) -> str:
    """Markdown: days or hours of a run by card and number of GPUs, as a range."""
    lines = ["| card | 1 GPU | 8 GPUs | 32 GPUs | GPU-hours on 8 |", "|---|---:|---:|---:|---:|"]
    for name, card in CARDS.items():
        cells, hours = [], {}
        for gpus in (1, 8, 32):
            hours[gpus] = config.steps * step_seconds(config, model, mean, card, gpus) / 3600
            state = 0 if config.offload else 16 * parameters(model) / gpus
            fits = state + 2 * parameters(model) < card.gigabytes * GB
            cells.append(in_words(hours[gpus]) if fits else "does not fit")
        cells.append(f"{8 * hours[8]:,.0f}")
        lines.append(f"| {name}, {card.gigabytes:.0f} GB | {' | '.join(cells)} |")
    return "\n".join(lines)


def in_words(hours: float) -> str:
    """From half to twice as long: 10 -> "5.0 to 20 hours"."""
    unit, size = ("days", 24) if hours > 48 else ("hours", 1)
    ends = (hours / 2 / size, hours * 2 / size)
    return f"{' to '.join(f'{x:,.0f}' if x >= 10 else f'{x:.2g}' for x in ends)} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", help="justrl.py, prorl.py, liteppo.py, lab.table1")
    parser.add_argument("--mean", type=float, help="mean response, in tokens (0.4 of the longest)")
    arguments, flags = parser.parse_known_args()
    if arguments.mean is not None and not 0 < arguments.mean < math.inf:
        parser.error(f"--mean must be above 0, not {arguments.mean}")
    torch.cuda.is_available = lambda: True  # or the paper's scale is refused
    config = script_config(arguments.script, flags)
    model = config_of(config.model)
    mean = arguments.mean or 0.4 * config.max_response_tokens
    print(f"{arguments.script}: {config.steps} steps, responses of {mean:,.0f} tokens, estimated\n")
    print(table(config, model, mean))


if __name__ == "__main__":
    main()
