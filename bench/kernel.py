"""losses.token_logps against the plain log-softmax: peak memory and time of forward and backward.

    python -m bench.kernel                  the head of a 1.5B model, in float32 on a CPU
    python -m bench.kernel --device cuda    the same in bfloat16 on a GPU

The head has 4,096 tokens, width 1,536 and a vocabulary of 151,936. Each measurement is a process of
its own on one thread. They run in turn, `--rounds` times. On a CPU the time is the processor's, and
the peak is the high-water mark of resident memory above what the inputs take. On CUDA the time is
the clock's, and the peak is the allocator's. `peak_gb` includes the gradients of hidden states and
head, which every variant must return; `working_gb` does not.

    plain              log_softmax(h W^T)[target] without entropy, as a minimal implementation does
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
    """Run one variant once, forward and backward. Returns its memory in gigabytes, and seconds."""
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
        inputs = hidden_M[rows], head, targets_M[rows]
        if arguments.variant.startswith("plain"):
            logps_M, _ = plain(*inputs, "entropy" in arguments.variant)
        else:
            logps_M, _ = token_logps(*inputs, chunk=int(arguments.variant.split()[1]))
        logps_M.mean().backward()
        hidden_M.grad = head.grad = None

    once(slice(0, 8))  # kernels load, threads start
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resident()
    # There is one thread, so the processor's time leaves out what other programs do.
    clock = time.perf_counter if cuda else time.process_time
    start = clock()
    once(slice(None))
    if cuda:
        torch.cuda.synchronize()
    seconds = clock() - start
    peak = (torch.cuda.max_memory_allocated() if cuda else high_water()) - before
    gradients = (hidden_M.numel() + head.numel()) * hidden_M.element_size()
    return {"peak_gb": peak / 1e9, "working_gb": (peak - gradients) / 1e9, "seconds": seconds}


def resident() -> int:
    """Bytes of memory that this process holds now. It also forgets the peak of the warm-up."""
    # This resets the kernel's high-water mark, see man 5 proc.
    Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def high_water() -> int:
    """The most bytes that this process has held since the last call of `resident`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=device, choices=("cpu", "cuda"))
    add("--tokens", type=int, default=4096)
    add("--width", type=int, default=1536)
    add("--vocabulary", type=int, default=151936)
    add("--chunks", type=int, nargs="+", default=[256, 512, 1024])
    add("--rounds", type=int, default=2)
    add("--out", help="default: bench/results/logps.json, logps_cuda.json on a GPU")
    add("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(worker(arguments)))
        return
    variants = ["plain", "plain + entropy", *(f"chunk {chunk}" for chunk in arguments.chunks)]
    shape = {f"--{key}": getattr(arguments, key) for key in ("tokens", "width", "vocabulary")}
    worker_command = [sys.executable, "-m", "bench.kernel", "--device", arguments.device]
    for flag, size in shape.items():
        worker_command += [flag, str(size)]
    measured = {variant: [] for variant in variants}
    for _ in range(arguments.rounds):
        for variant in variants:
            command = [*worker_command, "--variant", variant]
            done = subprocess.run(command, env=one_thread(), capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"logps.py: {variant} failed:\n{done.stderr[-2000:]}")
            measured[variant].append(json.loads(done.stdout.splitlines()[-1]))
            print(variant, rounded(measured[variant][-1], 2), flush=True)
    table = {}
    for variant, runs in measured.items():
        row = {key: median(run[key] for run in runs) for key in runs[0]}
        for key in ("peak_gb", "working_gb"):
            base = median(run[key] for run in measured["plain"])
            row[key.replace("gb", "ratio")] = row[key] / base
        pairs = zip(runs, measured["plain"], strict=True)
        row["time_ratio"] = median(run["seconds"] / base["seconds"] for run, base in pairs)
        table[variant] = row
    result = {"device": arguments.device, "shape": shape, "variants": table}
    name = "logps_cuda.json" if arguments.device == "cuda" else "logps.json"
    save(arguments.out or HERE / "results" / name, result)
    for variant, row in table.items():
        print(f"{variant:16}", rounded(row, 3))


def rounded(row: dict[str, float], digits: int) -> dict[str, float]:
    return {key: round(value, digits) for key, value in row.items()}


if __name__ == "__main__":
    main()
