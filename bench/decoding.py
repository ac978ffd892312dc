"""What each part of decoding a token costs, and what it cost or would cost another way.

    python -m bench.decoding

SmolLM2-135M's shapes (30 layers, 9 query and 3 key heads of 64, 49,152 ids), 128 rows, random
numbers; milliseconds a token step on one thread, in processor time, the fastest of --rounds.
"""

import argparse
import json
import time

import torch
from torch.nn import functional as F

from bench.common import RESULTS, save
from trainer.fast_layers import PackedLinear, grouped_attention
from trainer.transformers_engine import _draw, _truncate

ROWS, LAYERS, HEADS, KEY_HEADS, D, VOCABULARY = 128, 30, 9, 3, 64, 49152
SHAPES = [(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)]


def attention(length: int) -> dict:
    """One layer's attention of one token to `length` others, some of them padding."""
    query = torch.randn(ROWS, HEADS, 1, D)
    keys, values = torch.randn(2, ROWS, KEY_HEADS, length, D)
    mask = torch.zeros(ROWS, 1, 1, length)
    mask[::2, ..., :5] = -torch.inf

    def expand(states):
        states = states[:, :, None].expand(-1, -1, HEADS // KEY_HEADS, -1, -1)
        return states.reshape(ROWS, HEADS, length, D)

    sdpa = F.scaled_dot_product_attention
    return {
        "keys expanded": lambda: sdpa(query, expand(keys), expand(values), attn_mask=mask),
        "sdpa, enable_gqa": lambda: sdpa(query, keys, values, attn_mask=mask, enable_gqa=True),
        "two products": lambda: grouped_attention(None, query, keys, values, mask),
    }


def cache(length: int) -> dict:
    """One layer's new key and value joined to `length` others."""
    states, new = torch.randn(2, ROWS, KEY_HEADS, length, D), torch.randn(2, ROWS, KEY_HEADS, 1, D)
    room = torch.empty(2, ROWS, KEY_HEADS, 2 * length, D)

    def in_place():
        room[:, :, :, length : length + 1] = new

    return {"torch.cat": lambda: torch.cat([states, new], dim=3), "in place": in_place}


def products() -> dict:
    """One layer's linear layers, and the head, which weighs as much as eight layers."""
    layers = [torch.nn.Linear(i, o, bias=False) for i, o in [*SHAPES, (576, VOCABULARY)]]
    packed = [PackedLinear(layer) for layer in layers]
    low = [torch.nn.Linear(i, o, bias=False, dtype=torch.bfloat16) for i, o in SHAPES]
    low += [torch.nn.Linear(576, VOCABULARY, bias=False, dtype=torch.bfloat16)]
    inputs = {width: torch.randn(ROWS, 1, width) for width in (576, 1536)}
    inputs_16 = {width: tensor.bfloat16() for width, tensor in inputs.items()}
    return {
        "nn.Linear": lambda: [layer(inputs[layer.in_features]) for layer in layers],
        "packed": lambda: [p(inputs[q.in_features]) for p, q in zip(packed, layers, strict=True)],
        "bfloat16": lambda: [layer(inputs_16[layer.in_features]) for layer in low],
    }


def sampling() -> dict:
    logits = 3 * torch.randn(ROWS, VOCABULARY)
    draws = torch.rand(ROWS, dtype=torch.float64)

    def whole():
        cdf = logits.log_softmax(dim=-1).double().exp().cumsum(dim=-1)
        return torch.searchsorted(cdf, (draws * cdf[:, -1])[:, None], right=True)

    return {"whole CDF": whole, "by blocks": lambda: _draw(logits.softmax(dim=-1), draws)}


def top_p() -> dict:
    logits = 3 * torch.randn(ROWS, VOCABULARY)
    return {"full sort": lambda: logits.sort(dim=-1), "top k": lambda: _truncate(logits, 0.9, -1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=str(RESULTS / "decoding.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = {f"attention, layer, {length} tokens": (attention, length) for length in (100, 300)}
    parts |= {
        "cache, layer, 300 tokens": (cache, 300),
        "a layer's products and the head": (products,),
    }
    parts |= {"sampling": (sampling,), "top-p 0.9": (top_p,)}
    results = {}
    for part, (make, *shape) in parts.items():
        results[part] = {}
        with torch.inference_mode():
            for way, compute in make(*shape).items():
                seconds = []
                for _ in range(arguments.rounds + 1):  # the first allocates
                    start = time.process_time()
                    compute()
                    seconds.append(time.process_time() - start)
                results[part][way] = round(1e3 * min(seconds[1:]), 3)
        print(part, json.dumps(results[part]), flush=True)
    save(arguments.out, {"milliseconds": results})


if __name__ == "__main__":
    main()
