"""How the time of a step grows: with tokens per step, and with context length.

    python -m bench.scaling

Real `justrl.py --tiny` runs on one thread, in processor seconds from metrics.jsonl, without their
evaluations. First the tiny batch times 1, 4, 16 and 64. Then 8 responses to each of 4 prompts, from
a random model of the same size that cannot stop, so that every response is exactly
--max_response_tokens long. Writes results/scaling.json and scaling.png.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from bench.common import alone, one_thread, read_steps, save

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PHASES = ("rollout", "reward", "logps", "update", "sync")
SHORT = ["--tiny", "--engine", "transformers", "--eval_data", "tiny:eval/easy", "--eval_samples", 1]
SHORT += ["--eval_max_tokens", 2, "--eval_every", 10**6, "--save_every", 10**6]


def endless_model(folder: Path, longest: int) -> str:
    """The tiny model's shape with random weights, except that it never ends: see the comment."""
    import torch
    from transformers import AutoConfig, PreTrainedTokenizerFast, Qwen2ForCausalLM

    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT / "tiny" / "models" / "aligned")
    config = AutoConfig.from_pretrained(ROOT / "tiny" / "models" / "aligned")
    config.max_position_embeddings, config.tie_word_embeddings = longest, False
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    # The first number of the residual stream is 10 at every token, because no layer writes to it.
    # The end token's logit looks at it alone, and is far below all others.
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 10.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = -1000.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def measure(flags: list, steps: int) -> list[dict]:
    """Tokens and seconds by phase of justrl.py's steps. The first warms up and does not count."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *alone(ROOT / "justrl.py"),
            *SHORT,
            *flags,
            "--steps",
            steps,
            "--out",
            Path(folder) / "run",
        ]
        done = subprocess.run(
            [str(part) for part in command], env=one_thread(), capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"scaling.py: {' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
        return read_steps(Path(folder) / "run")[1:]


def fastest(rows: list[dict]) -> dict[str, float]:
    """The step that took least per token: other programs on the machine disturbed it least."""
    row = min(rows, key=lambda row: row["seconds_step"] / row["tokens"])
    names = ["tokens", "length", *(f"seconds_{phase}" for phase in (*PHASES, "step"))]
    shares = {phase: row[f"seconds_{phase}"] / row["seconds_step"] for phase in PHASES}
    return {name: row[name] for name in names} | {"shares": shares}


def growth(points: list[dict], by: str) -> list[float]:
    """Exponents between neighbours: 1 where twice the size takes twice the time."""
    return [
        math.log(b["seconds_step"] / a["seconds_step"]) / math.log(b[by] / a[by])
        for a, b in pairwise(points)
    ]


def draw(path: Path, by_tokens: list[dict], by_context: list[dict]) -> None:
    """Two logarithmic panels: seconds of each phase by tokens a step, and by response length."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    panels = [
        ("tokens", by_tokens, "response tokens a step"),
        ("length", by_context, "tokens of every response"),
    ]
    for axis, (key, points, label) in zip(axes, panels, strict=True):
        sizes = [point[key] for point in points]
        for phase in ("step", "update", "rollout", "logps"):
            seconds = [point[f"seconds_{phase}"] for point in points]
            style = {"color": "black", "linewidth": 2} if phase == "step" else {}
            axis.plot(
                sizes,
                seconds,
                marker="o",
                label="whole step" if phase == "step" else phase,
                **style,
            )
        first = points[0]["seconds_step"] / sizes[0]
        axis.plot(sizes, [first * size for size in sizes], "--", color="grey", label="proportional")
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="processor seconds (one core)")
        axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_title("more sequences (x1, x4, x16, x64)")
    axes[1].set_title("longer responses (32 sequences)")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--times", type=int, nargs="+", default=[1, 4, 16, 64], help="the tiny batch of 32 x 8"
    )
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument(
        "--steps",
        type=int,
        default=8,
        help="of the smallest run; larger ones take fewer, at least 2",
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="all runs in turn, so often; the fastest steps count"
    )
    parser.add_argument("--out", default=str(HERE / "results/scaling.json"))
    arguments = parser.parse_args()
    by_tokens = {times: [] for times in arguments.times}
    by_context = {length: [] for length in arguments.contexts}
    with tempfile.TemporaryDirectory() as folder:
        model = endless_model(Path(folder), max(arguments.contexts) + 64)
        for _ in range(arguments.rounds):
            for times, rows in by_tokens.items():
                flags = ["--prompts_per_step", arguments.prompts * times]
                rows += measure(flags, max(2, arguments.steps // times))
                print(times, json.dumps(fastest(rows)), flush=True)
            for length, rows in by_context.items():
                flags = ["--model", model, "--prompts_per_step", 4, "--max_response_tokens", length]
                rows += measure(flags, max(2, arguments.steps * arguments.contexts[0] // length))
                print(length, json.dumps(fastest(rows)), flush=True)
    by_tokens, by_context = (
        [fastest(rows) for rows in points.values()] for points in (by_tokens, by_context)
    )
    draw(Path(arguments.out).with_suffix(".png"), by_tokens, by_context)
    result = {"by_tokens": by_tokens, "by_context": by_context}
    result |= {
        "growth_by_tokens": growth(by_tokens, "tokens"),
        "growth_by_context": growth(by_context, "length"),
    }
    save(arguments.out, result)
    print("growth with tokens", [round(value, 2) for value in result["growth_by_tokens"]])
    print("growth with context", [round(value, 2) for value in result["growth_by_context"]])


if __name__ == "__main__":
    main()
