"""What keeping rollouts costs at the paper's scale: processor seconds and megabytes a step.

    python -m bench.keeping

A step of 256 prompts x 8 responses of 7,000 tokens (about what JustRL's run ends with), with
made-up numbers of realistic spread: most tokens nearly certain, a few not. Nothing is trained: this
times choosing groups, taking their tokens out of the micro-batches, and writing the file.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from trainer.data import Problem, Rollout
from trainer.policy.policy import MicroBatch
from trainer.run import kept as rollouts

PROMPTS, SAMPLES, TOKENS = 256, 8, 7000
CONFIG = SimpleNamespace(clip_low=0.2, clip_high=0.28, dual_clip=10.0, tis_cap=0.0)
WORDS = ["so", "we", "have", "the", "sum", "of", "2", "+", "3", "=", "5", "\\frac{1}{2}", "then"]


def make_groups(rng: np.random.Generator) -> list[list[Rollout]]:
    """Responses of Zipf-distributed ids (as tokens are) out of 150,000; half of them are right."""
    groups = []
    for _ in range(PROMPTS):
        group = []
        for _ in range(SAMPLES):
            ids = np.minimum(rng.zipf(1.3, TOKENS), 150_000).astype(np.int32)
            text = " ".join(rng.choice(WORDS, 4500))  # about 2.5 characters a token
            right = float(rng.random() < 0.5)
            logps = certain(rng).astype(np.float32)
            prompt = np.arange(100, dtype=np.int32)
            group.append(Rollout(prompt, ids, logps, False, text, right, 2 * right - 1))
        groups.append(group)
    return groups


def certain(rng: np.random.Generator) -> np.ndarray:
    """Log-probs of which four fifths are nearly 0."""
    return -rng.exponential(1.0, TOKENS) * np.where(rng.random(TOKENS) < 0.8, 1e-3, 1.0)


def make_minibatches(groups: list, rng: np.random.Generator) -> list[list[MicroBatch]]:
    """Four mini-batches of micro-batches of four responses, with what an update leaves in them."""
    members, unused = [rollout for group in groups for rollout in group], torch.zeros(0)
    minibatches = [[] for _ in range(4)]
    for start in range(0, len(members), 4):
        rows = members[start : start + 4]
        engine = torch.from_numpy(np.concatenate([rollout.logps for rollout in rows]))
        noise = torch.from_numpy(rng.normal(size=len(engine)).astype(np.float32))
        micro = MicroBatch(
            ids_B_T=unused,
            mask_B_T=unused,
            advantages_M=torch.ones(len(engine)),
            weights_M=torch.full((len(engine),), 1e-6),
            engine_logps_M=engine,
            rollouts=rows,
            old_logps_M=engine + 0.01 * noise,
            entropy_M=-engine,
        )
        micro.new_logps_M = micro.old_logps_M + 0.02 * noise
        minibatches[4 * start // len(members)].append(micro)
    return minibatches


def measure(keep: str, groups: list, minibatches: list) -> dict:
    problem = Problem("A problem of a sentence or two, as they are.", "42")
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        kept = rollouts.choose(groups, keep)
        values = rollouts.token_values(CONFIG, groups, kept, minibatches)
        rows = [
            row
            for p in kept
            for row in rollouts.rows_of(1, p, problem, groups[p], [0.0] * SAMPLES, values)
        ]
        rollouts.write(Path(folder), "step_000001", rows)
        seconds = time.process_time() - begin
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    tokens = len(rows) * TOKENS
    return {
        "keep": keep,
        "seconds": seconds,
        "megabytes": size / 1e6,
        "bytes_a_token": size / tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", nargs="+", default=["1", "4", "16"], help="values of the flag")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    groups = make_groups(rng)
    minibatches = make_minibatches(groups, rng)
    measure("1", groups, minibatches)  # the first time loads libraries
    for keep in args.keep:
        print(
            json.dumps(
                {
                    k: v if k == "keep" else round(v, 3)
                    for k, v in measure(keep, groups, minibatches).items()
                }
            )
        )


if __name__ == "__main__":
    main()
