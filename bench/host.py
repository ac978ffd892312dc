"""What a step costs the host: all of a real step that is neither a model nor a verifier.

    python -m bench.host                  a step of the paper's size: 2,048 answers, mean 7k tokens
    python -m bench.host --answers 64     a quick look
    python -m bench.host --parts loading  the host's memory while a run is loaded, saved, resumed

step      Made-up answers, as an engine hands them over, half of them on each of two ranks. What the
          recipes do with them follows: send them to every rank, weigh tokens, cut micro-batches.
          Seconds are processor time of the slower rank, on one thread. Megabytes are what a rank
          grows by at most above its own answers. The goals are 2 s and 300 MB. The micro-batches,
          which wait on the GPU, are counted apart.
loading   A model of random weights on two CPU ranks that share it. The numbers are each rank's peak
          above its idle size, in multiples of the model's float32 size. A rank's share of weights
          and AdamW's state is 1.5.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from bench.common import one_thread, save
from bench.formula import Shape, parameters
from bench.kernel import high_water, resident

MB = 1e6
GROUP = 8  # answers to each prompt
UPDATES = 4  # mini-batches of a step


def made_up(answers: int, mean: int, limit: int):
    """Groups of answers with lengths of that mean and limit, and four letters of text a token."""
    from trainer.data import Rollout

    rng = np.random.default_rng(0)
    groups = []
    for _ in range(answers // GROUP):
        prompt, group = rng.integers(150_000, size=200).astype(np.int32), []
        for length in np.clip(rng.gamma(2.0, mean / 2, size=GROUP), 1, limit).astype(int).tolist():
            ids = rng.integers(150_000, size=length).astype(np.int32)
            answer = Rollout(prompt, ids, -rng.random(length, np.float32), length == limit)
            answer.text, answer.reward = "abc " * length, float(rng.integers(2))
            group.append(answer)
        groups.append(group)
    return groups


def step(arguments) -> dict:
    """A rank's seconds and megabytes of what a recipe does between sampling and training."""
    import losses
    from trainer.policy.policy import equal_slices, micro_batches, response_mask
    from trainer.ranks import gather, my_share

    mine = my_share(made_up(arguments.answers, arguments.mean, arguments.limit))
    gather(mine[:1])  # connects the ranks
    dist.barrier()
    before, times = resident(), [time.process_time()]
    rollouts = list(chain(*gather(mine)))
    times.append(time.process_time())
    gathering = high_water() - before
    rewards_P_G = torch.tensor([answer.reward for answer in rollouts]).view(-1, GROUP)
    advantages = losses.advantages(rewards_P_G, center="group", scale="group").flatten()
    minibatches, cpu = [], torch.device("cpu")
    for rows in equal_slices(len(rollouts), UPDATES):
        weights_B_R = losses.token_weights(response_mask(rollouts[rows]), "token")
        minibatches += micro_batches(
            rollouts[rows],
            advantages[rows],
            weights_B_R,
            budget=arguments.limit * 2,
            device=cpu,
        )
    times.append(time.process_time())
    tensors = [x for micro in minibatches for x in vars(micro).values() if torch.is_tensor(x)]
    waiting = sum(tensor.nbytes for tensor in tensors)
    return {
        "seconds": times[-1] - times[0],
        "seconds_gather": times[1] - times[0],
        "seconds_weights_and_micro_batches": times[2] - times[1],
        "megabytes": max(gathering, high_water() - before - waiting) / MB,
        "megabytes_gather": gathering / MB,
        "megabytes_weights": weights_B_R.nbytes / MB,  # of one mini-batch, [B, R]
        "megabytes_micro_batches": waiting / MB,
        "tokens": sum(len(answer.response_ids) for answer in rollouts),
        "micro_batches": len(minibatches),
    }


def loading(arguments) -> dict:
    """A rank's peak memory of loading a model, of saving a checkpoint, and of resuming from it."""
    import transformers

    from trainer.policy.policy import load_policy
    from trainer.run.checkpoint import load_checkpoint, save_checkpoint

    folder, shape = Path(arguments.folder), Shape(**arguments.shape)
    size, cpu = 4 * parameters(shape), torch.device("cpu")
    idle, peaks = resident(), {}

    def policy_and_optimizer():
        policy = load_policy(str(folder / "model"), cpu, torch.float32, False)
        return policy, torch.optim.AdamW(policy.parameters(), lr=1e-6)

    def step_of(policy, optimizer):
        for parameter in policy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()

    if arguments.phase == "save":
        policy, optimizer = policy_and_optimizer()
        peaks["load"] = (high_water() - idle) / size
        step_of(policy, optimizer)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
        state = {"step": 1, "data": "none"}
        save_checkpoint(folder, state, policy, tokenizer, optimizer, keep=1)
        peaks["load, train, save"] = (high_water() - idle) / size
    else:
        policy, optimizer = policy_and_optimizer()
        checkpoint = folder / "checkpoints" / "step_000001"
        load_checkpoint(checkpoint, {"step": 0, "data": "none"}, policy, optimizer)
        peaks["resume"] = (high_water() - idle) / size
    return peaks


def on_two_ranks(part: str, arguments, **more) -> list[dict]:
    """Run one part of this file on two ranks and return what each of them found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", "-m", "bench.host", "--part", part, "--out", folder]
        for name, value in ({"shape": None} | vars(arguments) | more).items():
            if name in ("answers", "mean", "limit", "folder", "phase", "shape") and value:
                text = json.dumps(value) if name == "shape" else str(value)
                command += [f"--{name}", text]
        done = subprocess.run(command, env=one_thread(), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"host.py: {part} failed:\n{done.stderr[-3000:]}")
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(2)]


def rank_of_two(arguments) -> None:
    """What one rank does: its part, its result in a file, and an end without ceremony."""
    from trainer.ranks import start_ranks

    start_ranks(one_thread=True)
    result = {"step": step, "loading": loading}[arguments.part](arguments)
    (Path(arguments.out) / f"{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.barrier()
    os._exit(0)


def measure_loading(arguments) -> dict:
    """Peaks of both ranks, {phase: [rank 0, rank 1]}, in multiples of the model's float32 size."""
    from bench.gpu import make_model

    small = Shape(256, 512, 4, 4, 1, 64, 2000, tied=True)
    shape = small if arguments.answers < 1000 else Shape(1024, 2816, 16, 16, 2, 64, 32000, True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model").mkdir()
        make_model(Path(folder) / "model", shape, "cpu", longest=512)
        found = {"float32_mb": 4 * parameters(shape) / MB}
        for phase in ("save", "resume"):
            shared = {"folder": folder, "phase": phase, "shape": vars(shape)}
            ranks = on_two_ranks("loading", arguments, **shared)
            found |= {name: [round(rank[name], 2) for rank in ranks] for name in ranks[0]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("step", "loading")
    parser.add_argument("--parts", nargs="+", default=["step"], choices=parts)
    parser.add_argument("--answers", type=int, default=2048)
    parser.add_argument("--mean", type=int, default=7000, help="tokens of an answer")
    parser.add_argument("--limit", type=int, default=15360, help="tokens of the longest")
    parser.add_argument("--out", default="bench/results/host.json")
    for name in ("part", "folder", "phase"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        rank_of_two(arguments)
    result = {}
    if "step" in arguments.parts:
        ranks = on_two_ranks("step", arguments)
        result["step"] = {name: max(rank[name] for rank in ranks) for name in ranks[0]}
    if "loading" in arguments.parts:
        result["loading"] = measure_loading(arguments)
    print(json.dumps(result, indent=1))
    save(arguments.out, result)


if __name__ == "__main__":
    main()
