"""losses.token_logps against the plain log-softmax: peak memory and time of forward and backward.

    python bench/logps.py                  a 1.5B model's head: 4,096 tokens, width 1,536, vocabulary 151,936
    python bench/logps.py --device cuda    bfloat16, on a GPU

Every measurement is a process of its own, on one thread, in turn, `--rounds` times. Time: the processor's on CPU, the
clock's on CUDA. Peak: on CPU the high-water mark of resident memory above what the inputs take, on CUDA the
allocator's. `peak_gb` includes the gradients of hidden states and head, which all must return; `working_gb` does not.

    plain              log_softmax(h W^T)[target], no entropy: what a minimal implementation does
    plain + entropy    the same two outputs as token_logps
    chunk C            token_logps(..., chunk=C)
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from bench.common import one_thread, save
from losses import token_logps

HERE = Path(__file__).resolve().parent


def plain(hidden_M, head, targets_M, entropy: bool):
    """Log-probs (and entropy) the short way: all M x V logits at once."""
    log_probs = torch.log_softmax((hidden_M @ head.T).float(), dim=-1)
    logps_M = log_probs.gather(-1, targets_M[:, None]).squeeze(-1)
    if not entropy:
        return logps_M, None
    with torch.no_grad():
        return logps_M, -(log_probs.exp() * log_probs).sum(dim=-1)


def worker(arguments) -> dict[str, float]:
    """Run one variant once, forward and backward. Returns its peak memory, gigabytes, and seconds."""
    cuda = arguments.device == "cuda"
    torch.manual_seed(0)
    dtype = torch.bfloat16 if cuda else torch.float32
    options = {"device": arguments.device, "dtype": dtype, "requires_grad": True}
    hidden_M = torch.randn(arguments.tokens, arguments.width, **options)
    head = torch.randn(arguments.vocabulary, arguments.width, **options)
    targets_M = torch.randint(arguments.vocabulary, (arguments.tokens,), device=arguments.device)
    with torch.no_grad():
        head *= arguments.width**-0.5

    def once(rows: slice) -> None:
        if arguments.variant.startswith("plain"):
            logps_M, _ = plain(
                hidden_M[rows], head, targets_M[rows], "entropy" in arguments.variant
            )
        else:
            logps_M, _ = token_logps(
                hidden_M[rows], head, targets_M[rows], chunk=int(arguments.variant.split()[1])
            )
        logps_M.mean().backward()
        hidden_M.grad = head.grad = None

    once(slice(0, 8))  # kernels load, threads start
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resident()
    clock = (
        time.perf_counter if cuda else time.process_time
    )  # one thread: what other programs do is not counted
    start = clock()
    once(slice(None))
    if cuda:
        torch.cuda.synchronize()
    seconds = clock() - start
    peak = (torch.cuda.max_memory_allocated() if cuda else high_water()) - before
    gradients = (hidden_M.numel() + head.numel()) * hidden_M.element_size()
    return {"peak_gb": peak / 1e9, "working_gb": (peak - gradients) / 1e9, "seconds": seconds}


def resident() -> int:
    """Bytes of memory this process holds now; the small warm-up's own peak is forgotten."""
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # resets the kernel's high-water mark, see man 5 proc
    return high_water()


def high_water() -> int:
    """The most bytes this process has held since `resident` was asked."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--chunks", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--out", default=None, help="default: bench/results/logps.json, logps_cuda.json on a GPU"
    )
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(worker(arguments)))
        return
    variants = ["plain", "plain + entropy", *(f"chunk {chunk}" for chunk in arguments.chunks)]
    shape = [
        "--tokens",
        arguments.tokens,
        "--width",
        arguments.width,
        "--vocabulary",
        arguments.vocabulary,
    ]
    measured = {variant: [] for variant in variants}
    for _ in range(arguments.rounds):
        for variant in variants:
            command = [
                sys.executable,
                __file__,
                "--device",
                arguments.device,
                "--variant",
                variant,
                *map(str, shape),
            ]
            done = subprocess.run(command, env=one_thread(), capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"logps.py: {variant} failed:\n{done.stderr[-2000:]}")
            measured[variant].append(json.loads(done.stdout.splitlines()[-1]))
            print(
                variant,
                {key: round(value, 2) for key, value in measured[variant][-1].items()},
                flush=True,
            )
    table = {}
    for variant, runs in measured.items():
        row = {key: median(run[key] for run in runs) for key in runs[0]}
        for key in ("peak_gb", "working_gb"):
            row[key.replace("gb", "ratio")] = row[key] / median(
                run[key] for run in measured["plain"]
            )
        pairs = zip(runs, measured["plain"], strict=True)
        row["time_ratio"] = median(run["seconds"] / base["seconds"] for run, base in pairs)
        table[variant] = row
    result = {
        "device": arguments.device,
        "shape": dict(zip(shape[::2], shape[1::2], strict=True)),
        "variants": table,
    }
    name = "logps_cuda.json" if arguments.device == "cuda" else "logps.json"
    save(arguments.out or HERE / "results" / name, result)
    for variant, row in table.items():
        print(f"{variant:16}", {key: round(value, 3) for key, value in row.items()})


if __name__ == "__main__":
    main()
