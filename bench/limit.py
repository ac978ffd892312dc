"""The update phase beside its matrix products alone: how near it is to what the processor can do.

    python -m bench.limit                     the embedded world: one step of --tiny, 256 responses
    python -m bench.limit --model FOLDER      a real model: 2 prompts x 8, up to 64 tokens
    python -m bench.limit --profile           and torch's table of what the rest is

Both on one thread, in turn, in processor seconds. The responses are sampled first, by our engine.

    update      forward, loss, backward, clip and AdamW of justrl.py, in its micro-batches
    products    per micro-batch, forward and two backward products of each linear layer and the
                head, and of each layer's attention, forward two and backward four. They are on
                random numbers of the same shapes. No activation, and nothing computed twice.
    unshared    the same products if every response had its prompt to itself, without any padding
    padded      the update phase without sharing: right-padded rectangles of whole sequences

The ratios are those over update. For products and unshared 1 is the limit; where the samples of a
prompt share it, unshared may exceed it. That of padded says what sharing gains.
"""

import argparse
import time
from functools import partial
from statistics import median

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import losses
from bench.common import RESULTS, save
from trainer.data import Sampling, chat_ids
from trainer.policy.policy import (
    equal_slices,
    load_policy,
    make_optimizer,
    micro_batches,
    optimizer_step,
    response_mask,
    set_learning_rate,
)
from trainer.policy.pretrained import load_tokenizer
from trainer.ranks import start_ranks
from trainer.run.run import model_folder
from trainer.sampler.engine import make_engine, request_seed
from trainer.sources.load import load_problems

CPU = torch.device("cpu")
PROBLEM = "What is the sum of the first {} odd numbers? Explain each step, then give the answer."


def sample(folder: str, tiny: bool):
    """Real responses of the model: 32 prompts x 8 of the embedded world, or 2 x 8."""
    tokenizer = load_tokenizer(folder)
    texts = [PROBLEM.format(10 + p) for p in range(2)]
    if tiny:
        texts = [problem.text for problem in load_problems("tiny:train/mixed")[:32]]
    prompts = [chat_ids(tokenizer, text) for text in texts]
    longest = 64 + max(map(len, prompts))
    engine = make_engine("transformers", folder, tokenizer, max_length=longest, dtype=torch.float32)
    seeds = [request_seed(0, 1, p) for p in range(len(prompts))]
    groups = engine.generate(prompts, 8, seeds, Sampling(64))
    return [rollout for group in groups for rollout in group]


def cut(rollouts, updates: int, budget: int, policy=None):
    """The step's mini-batches, with advantages of 1 and -1; padded without a policy."""
    micros = partial(micro_batches, budget=budget, device=CPU, policy=policy)
    advantages_B = torch.tensor([(-1.0) ** row for row in range(len(rollouts))])
    minibatches = []
    for rows in equal_slices(len(rollouts), updates):
        weights_B_R = losses.token_weights(response_mask(rollouts[rows]), "token")
        minibatches.append(micros(rollouts[rows], advantages_B[rows], weights_B_R))
    return minibatches


def update(policy, optimizer, minibatches) -> None:
    """The update phase of justrl.py. The learning rate is so small that every round is alike."""
    set_learning_rate(optimizer, 1e-9, step=1, warmup_steps=0)
    for minibatch in minibatches:
        for micro in minibatch:
            logps_M, entropy_M = policy(micro, 1.0)
            micro.keep(logps_M, entropy_M)
            loss_M = losses.clipped_policy_loss(
                logps_M, micro.old_logps_M, micro.advantages_M, 0.2, 0.28, 10.0
            )
            (micro.weights_M * loss_M).sum().backward()
        optimizer_step(policy, optimizer, 1.0)


def shapes(micro, shared: bool) -> tuple[int, int, list[tuple[int, int]]]:
    """(tokens of the layers, tokens of the head, [B, T] of attention) of a micro-batch."""
    rectangles, tokens = [micro.ids_B_T], micro.ids_B_T.numel()
    if micro.packed is not None:
        rectangles, tokens = micro.packed.places, micro.packed.ids_1_N.numel()
    if not shared:
        tokens = sum(len(r.prompt_ids) + len(r.response_ids) for r in micro.rollouts)
    return tokens, len(micro.weights_M), [tuple(ids.shape) for ids in rectangles]


class Products:
    """The matrix products of a list of `shapes`, on random numbers that are made once."""

    def __init__(self, policy, micros: list):
        config = policy.model.config
        self.micros, self.layers = micros, config.num_hidden_layers
        self.heads = config.num_attention_heads
        self.d = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        head = policy.head.module
        linears = [m for m in policy.model.modules() if isinstance(m, nn.Linear) and m is not head]
        self.weights, self.head = [m.weight.detach() for m in linears], head.weight.detach()
        most = max(max(tokens, M) for tokens, M, _ in micros)
        sizes = {size for weight in [*self.weights, self.head] for size in weight.shape}
        self.states = {size: torch.randn(most, size) for size in sizes}
        area = max(B * T * max(T, self.d) for _, _, ones in micros for B, T in ones)
        self.flat = torch.randn(area * self.heads)
        products = 0
        for tokens, M, rectangles in micros:
            products += 3 * sum(weight.numel() for weight in self.weights) * tokens
            products += 3 * self.head.numel() * M
            pairs = sum(B * T * T for B, T in rectangles)
            products += 6 * self.layers * self.heads * self.d * pairs
        self.operations = 2 * products

    @torch.no_grad()
    def run(self) -> None:
        for tokens, M, rectangles in self.micros:
            for weight in self.weights:
                self._linear(weight, tokens)
            self._linear(self.head, M)
            for B, T in rectangles:
                for _ in range(self.layers):
                    self._attention(B * self.heads, T)

    def _linear(self, weight: torch.Tensor, rows: int) -> None:
        out, width = (self.states[size][:rows] for size in weight.shape)
        width @ weight.T, out @ weight, out.T @ width

    def _attention(self, B: int, T: int) -> None:
        states = self.flat[: B * T * self.d].view(B, T, self.d)
        scores = self.flat[: B * T * T].view(B, T, T)
        for _ in range(2):  # scores, and their gradient
            torch.bmm(states, states.transpose(1, 2))
        for _ in range(2):  # the output, and the queries' gradient
            torch.bmm(scores, states)
        for _ in range(2):  # the keys' and values' gradients
            torch.bmm(scores.transpose(1, 2), states)


def seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny:aligned")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=8192, help="tokens of one micro-batch")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", help="default: bench/results/limit_tiny.json, limit.json else")
    arguments = parser.parse_args()
    start_ranks(one_thread=True)
    tiny, folder = arguments.model.startswith("tiny:"), model_folder(arguments.model)
    rollouts = sample(folder, tiny)
    policy = load_policy(folder, CPU, torch.float32, gradient_checkpointing=False)
    optimizer = make_optimizer(policy, 0.1)
    cuts = partial(cut, rollouts, 4 if tiny else 1, arguments.budget)
    again = partial(cuts, policy)
    micros = [micro for minibatch in again() for micro in minibatch]
    work = {}
    for name, shared in (("products", True), ("unshared", False)):
        work[name] = Products(policy, [shapes(micro, shared) for micro in micros])
    rounds = []
    for _ in range(arguments.rounds + 1):
        row = {}
        for name, minibatches in (("update", again()), ("padded", cuts())):
            row[name] = seconds(partial(update, policy, optimizer, minibatches))
        row |= {name: seconds(products.run) for name, products in work.items()}
        rounds.append(row)
        print(row, flush=True)
    del rounds[0]  # it warms up
    result = {
        "model": arguments.model.split("/")[-1],
        "response_tokens": sum(len(rollout.response_ids) for rollout in rollouts),
        "tokens_of_the_layers": {
            name: sum(tokens for tokens, _, _ in products.micros) for name, products in work.items()
        },
        "seconds": {name: median(row[name] for row in rounds) for name in rounds[0]},
        "ratios": {
            name: median(row[name] / row["update"] for row in rounds) for name in (*work, "padded")
        },
        "gflops": {
            name: products.operations / 1e9 / median(row[name] for row in rounds)
            for name, products in work.items()
        },
    }
    print(result)
    if arguments.profile:
        minibatches = again()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            update(policy, optimizer, minibatches)
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30))
    save(arguments.out or RESULTS / ("limit_tiny.json" if tiny else "limit.json"), result)


if __name__ == "__main__":
    main()
