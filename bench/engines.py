"""Tokens a second of our CPU engine and of vLLM's CPU build, in turn, on the same prompts.

    python -m bench.engines --model FOLDER           128 x 64 and x 256 tokens, and the tiny world
    python -m bench.engines --model FOLDER --short   a part of each: minutes instead of half an hour
    python -m bench.engines --engines transformers   ours alone, on the tiny world alone

Each measurement is a process of its own that loads the model, decodes a few tokens to warm up, and
then samples at temperature 1: 8 prompts x 16 from FOLDER's model, whose stop tokens are switched
off, so that all responses are as long as asked for; 32 x 8 from the tiny model, whose responses end
where they end. On one thread and in processor seconds, so that other programs on the machine are
not counted, although they make it slower. The fastest round counts; `ratio` is ours over vLLM's.

--short: a token in the middle of a response costs what its tokens cost on average. So prompts get
half a response longer, 24 tokens are decoded there, and the prefill is left out.
"""

import argparse
import json
import os
import subprocess
import sys
import time

from bench.common import RESULTS, one_thread, save

PROBLEM = "What is the sum of the first {} odd numbers? Explain each step, then give the answer."
FEW = 8  # tokens of a response too short to count


def sample(arguments) -> dict[str, float]:
    """Sample once, in this process: tokens, processor seconds and tokens a second."""
    import torch

    from trainer.data import Sampling, chat_ids
    from trainer.policy.pretrained import load_tokenizer
    from trainer.ranks import start_ranks
    from trainer.run.run import model_folder
    from trainer.sampler.engine import make_engine, request_seed
    from trainer.sources.load import load_problems

    start_ranks()
    tiny = arguments.model.startswith("tiny:")
    folder = model_folder(arguments.model)
    tokenizer = load_tokenizer(folder)
    if tiny:
        texts = [problem.text for problem in load_problems("tiny:train/mixed")[:32]]
    else:
        texts = [PROBLEM.format(10 + p) for p in range(8)]
    prompts, tokens = [chat_ids(tokenizer, text) for text in texts], arguments.worker_tokens
    if arguments.short and not tiny:
        prompts = [(tokens // 2) * [prompt[-1]] + prompt for prompt in prompts]
        tokens = 24
    engine = make_engine(
        arguments.worker,
        folder,
        tokenizer,
        max_length=max(map(len, prompts)) + tokens,
        dtype=torch.float32,
    )
    if not tiny:
        engine.stop_ids = engine.stop_ids[:0]
    seeds = [request_seed(0, 1, p) for p in range(len(prompts))]

    def run(max_tokens: int) -> tuple[int, float]:
        start = time.process_time()
        groups = engine.generate(prompts, 8 if tiny else 16, seeds, Sampling(max_tokens))
        seconds = time.process_time() - start
        return sum(len(rollout.response_ids) for group in groups for rollout in group), seconds

    warm = run(FEW)
    count, seconds = run(tokens)
    if arguments.short and not tiny:
        warm = run(FEW)
        count, seconds = count - warm[0], seconds - warm[1]
    return {"tokens": count, "seconds": seconds, "tokens_per_second": count / seconds}


def measure(arguments, engine: str, model: str, tokens: int) -> dict[str, float]:
    """`sample` in a process of its own."""
    command = [sys.executable, "-m", "bench.engines", "--worker", engine, "--model", model]
    command += ["--worker_tokens", str(tokens)] + ["--short"] * arguments.short
    # The cache of 128 x 300 tokens needs more than the 1 GB that is our default.
    environment = one_thread() | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"engines.py: {' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder with a real model; without, the tiny world only")
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--short", action="store_true", help="24 tokens of each length")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", default=str(RESULTS / "engines.json"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--worker_tokens", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(sample(arguments)))
        sys.stdout.flush()
        os._exit(0)  # vLLM's threads may outlive main

    cases = [("tiny:aligned", 64)]
    if arguments.model:
        cases += [(arguments.model, tokens) for tokens in arguments.tokens]
    rates = {case: {engine: [] for engine in arguments.engines} for case in cases}
    for _ in range(arguments.rounds):
        for (model, tokens), by_engine in rates.items():
            for engine, found in by_engine.items():
                found.append(measure(arguments, engine, model, tokens)["tokens_per_second"])
                print(f"{model} {tokens} {engine}: {found[-1]:.0f} tokens/s", flush=True)
    results = []
    for (model, tokens), by_engine in rates.items():
        row = {"model": os.path.basename(model), "response_tokens": tokens}
        row |= {engine: max(found) for engine, found in by_engine.items()}
        if by_engine.keys() >= {"transformers", "vllm"}:
            row["ratio"] = row["transformers"] / row["vllm"]
        results.append(row)
        print(json.dumps(row))
    save(arguments.out, {"by": "tokens a processor second, one thread", "results": results})


if __name__ == "__main__":
    main()
