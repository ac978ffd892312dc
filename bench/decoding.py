"""What each part of decoding a token costs, and what it cost or would cost another way.

    python -m bench.decoding
    python -m bench.decoding --model FOLDER   also the engine on a real model, float32 and bfloat16

SmolLM2-135M's shapes (30 layers, 9 query and 3 key heads of 64, 49,152 ids), 128 rows, random
numbers; milliseconds a token step on one thread, in processor time, the fastest of --rounds.
"""

import argparse
import json
import time
from itertools import chain

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from bench.common import RESULTS, save
from trainer.data import Sampling, chat_ids
from trainer.policy.pretrained import load_tokenizer
from trainer.ranks import start_ranks
from trainer.sampler.cpu import TransformersEngine, _draw, _truncate
from trainer.sampler.cpu_layers import PackedLinear, grouped_attention

ROWS, LAYERS, HEADS, KEY_HEADS, D, VOCABULARY = 128, 30, 9, 3, 64, 49152
SHAPES = [(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)]


def attention(length: int) -> dict:
    """One layer's attention of one token to `length` others, some of them padding."""
    query = torch.randn(ROWS, HEADS, 1, D)
    keys, values = torch.randn(2, ROWS, KEY_HEADS, length, D)
    turned = values.transpose(2, 3).contiguous().transpose(2, 3)  # as the engine's cache lays them
    mask = torch.zeros(ROWS, 1, 1, length)
    mask[::2, ..., :5] = -torch.inf

    def expand(states):
        states = states[:, :, None].expand(-1, -1, HEADS // KEY_HEADS, -1, -1)
        return states.reshape(ROWS, HEADS, length, D)

    sdpa = F.scaled_dot_product_attention
    return {
        "keys expanded": lambda: sdpa(query, expand(keys), expand(values), attn_mask=mask),
        "sdpa, enable_gqa": lambda: sdpa(query, keys, values, attn_mask=mask, enable_gqa=True),
        "two products": lambda: grouped_attention(None, query, keys, turned, mask),
    }


def growing(room: int) -> dict:
    """One layer's cache and attention for 64 tokens after 200, by layout and spare room."""
    states = torch.randn(2, ROWS, KEY_HEADS, 200, D)
    query, new = torch.randn(ROWS, HEADS, 1, D), torch.randn(ROWS, KEY_HEADS, 1, D)
    shape = (ROWS, KEY_HEADS, 200 + room, D)

    def rows_of(turned: bool):
        keys, values = torch.empty(shape), torch.empty(shape)
        if turned:
            values = torch.empty(*shape[:2], D, 200 + room).transpose(2, 3)
        for part, state in zip((keys, values), states, strict=True):
            part[:, :, :200] = state

        def decode():
            for end in range(201, 265):
                keys[:, :, end - 1 : end] = values[:, :, end - 1 : end] = new
                key, value = keys[:, :, :end].flatten(0, 1), values[:, :, :end].flatten(0, 1)
                probs = torch.bmm(query.view(key.shape[0], -1, D), key.transpose(1, 2)).softmax(-1)
                if turned:
                    torch.bmm(value.transpose(1, 2), probs.transpose(1, 2))
                else:
                    torch.bmm(probs, value)

        return decode

    return {"values [T, d]": rows_of(False), "values [d, T]": rows_of(True)}


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


def precision(folder: str) -> dict:
    """The engine in float32 and bfloat16: tokens a second, and its log-probs' gap to float32."""
    start_ranks()
    tokenizer = load_tokenizer(folder)
    prompts = [chat_ids(tokenizer, f"What is {p} + 17? Explain each step.") for p in range(4)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        engine = TransformersEngine(folder, len(tokenizer), [], 512, dtype)
        engine.generate(prompts, 16, range(4), Sampling(2))
        start = time.process_time()
        rollouts = list(chain(*engine.generate(prompts, 16, range(4), Sampling(24))))
        seconds, gaps = time.process_time() - start, []
        for rollout in rollouts[::4]:
            first, ids = len(rollout.prompt_ids), rollout.prompt_ids.tolist()
            ids = torch.tensor([ids + rollout.response_ids.tolist()])
            logps = model(input_ids=ids).logits[0, first - 1 : -1].log_softmax(dim=-1)
            logps = logps.gather(-1, ids[0, first:, None]).squeeze(-1)
            gaps.append((logps - torch.from_numpy(rollout.logps)).abs())
        gap = torch.cat(gaps)
        results[str(dtype)] = {
            "tokens_per_second": round(len(rollouts) * 24 / seconds, 1),
            "mean_gap": gap.mean().item(),
            "largest_gap": gap.max().item(),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder with a real model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=str(RESULTS / "decoding.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = {f"attention, layer, {length} tokens": (attention, length) for length in (100, 300)}
    parts |= {
        f"64 tokens after 200, layer, room for {room} more": (growing, room) for room in (64, 200)
    }
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
    found = {"milliseconds": results}
    if arguments.model:
        with torch.inference_mode():
            found["precision"] = precision(arguments.model)
        print(json.dumps(found["precision"]), flush=True)
    save(arguments.out, found)


if __name__ == "__main__":
    main()
