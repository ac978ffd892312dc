"""docs/running.md's tables of memory, from rehearsals.

    python -m bench.fits                              the default models
    python -m bench.fits --models Qwen3-0.6B-Base     it needs what bench/rehearse.py needs

Each configuration is rehearsed with three and with four layers. Where a micro-batch is large, all
bytes are linear in the layers and in its tokens, whose slope is measured once a model. So few short
rehearsals give the whole model's; tests/test_rehearse.py compares them with a whole one. 32 GPUs
are 8 with a smaller share of the state. A GPU keeps rehearse.RESERVE free.
"""

import argparse
import sys
from pathlib import Path

from bench.rehearse import CARDS, RESERVE, arguments_of, rehearsals  # isort: skip

from bench.common import ROOT, save
from bench.formula import GB, SHAPES, engine_tokens, parameters
from trainer.policy.loading import REDUCE_ONCE

MODELS = {  # (the script that trains it, tokens of its longest sequence)
    "DeepSeek-R1-Distill-Qwen-1.5B": ("justrl.py", 16384),
    "Qwen3-4B-Base": ("liteppo.py", 9216),
    "Qwen3-8B-Base": ("liteppo.py", 9216),
    "Qwen3-0.6B-Base": ("justrl.py", 1536),
}
COLUMNS = [(1, True), (1, False), (8, False), (32, False)]  # ranks, --offload
MOMENTS_BYTES = 12  # of a parameter: float32 weight and AdamW's two moments
STATE_BYTES = 16  # and the gradient
ROWS = 8, 16  # of a micro-batch, of 4,096 tokens. With fewer the embedding decides, not the layers
LAYERS = 3, 4  # FSDP may hold the weights of three at once
SHARE = 0.35  # --engine_memory's default


class Line:
    """Bytes by layers and tokens, a + b L + (c + d L) tokens, through four points."""

    def __init__(self, points: dict[tuple[int, int], float], less: float = 0.0):
        self.points, self.less = points, less

    def at(self, layers: int, tokens: int) -> float:
        return self._at(layers, tokens) - self.less

    def _at(self, layers: int, tokens: int) -> float:
        few, more = (
            self._between(tokens, *(self.points[depth, 4096 * rows] for rows in ROWS))
            for depth in LAYERS
        )
        return few + (more - few) * (layers - LAYERS[0]) / (LAYERS[1] - LAYERS[0])

    @staticmethod
    def _between(tokens: int, small: float, large: float) -> float:
        return small + (large - small) * (tokens - 4096 * ROWS[0]) / (4096 * (ROWS[1] - ROWS[0]))


def measured(script, model: str, ranks: int, offload: bool, kept: bool, base: dict | None) -> dict:
    """{what: {(layers, tokens): bytes}}, of a GPU and of the host.

    what: "training", "sampling" (without the engine), and the host's memory of the "first" and any
    "other" rank. kept: whether each rank keeps a whole gradient. base: of another configuration,
    whose slope over the tokens is taken over.
    """
    card = max(CARDS) if kept else 16  # too small to keep even a few layers' gradient
    points = {name: {} for name in ("training", "sampling", "first", "other")}
    for layers in LAYERS:
        small, large = ((layers, 4096 * rows) for rows in ROWS)
        for rows in ROWS if base is None else ROWS[:1]:
            command = f"{script} --ranks {ranks} --gpu {card} --layers {layers} --model m/{model} "
            command += f"--tokens_per_micro_batch {4096 * rows} --max_prompt_tokens 1024 "
            command += "--max_response_tokens 3072 --eval_every 0 --engine_memory 0.9 "
            command += "--updates_per_step 2"  # the second one with AdamW's moments
            command += " --offload" if offload else ""
            arguments, flags = arguments_of(command.split())
            found = [facts for *_, facts in rehearsals(arguments, flags, (1,), rows == ROWS[0])]
            for facts in found:
                if facts["fault"]:
                    sys.exit(facts["fault"])
            peaks = found[0]["peaks"]
            key = layers, 4096 * rows
            points["training"][key] = max(gpu for _, awake, gpu, _ in peaks if not awake)
            points["sampling"][key] = max(
                gpu for stage, awake, gpu, _ in peaks if awake and stage != "start"
            )
            hosts = [max(host for *_, host in facts["peaks"]) for facts in found]
            for name, host in (("first", hosts[0]), ("other", hosts[-1])):
                for key in (small, large):  # it does not depend on the tokens
                    points[name].setdefault(key, host)
            now = {name: round(p[layers, 4096 * rows] / GB, 3) for name, p in points.items()}
            print(command, now, flush=True)
        for name in ("training", "sampling") if base else ():
            points[name][large] = points[name][small] + base[name][large] - base[name][small]
    return points


def micro_batch(lines: dict[str, Line], shape, longest: int, card: float) -> str:
    """The largest --tokens_per_micro_batch in 1,024 tokens; "no" where there is none."""
    room = card * GB - RESERVE
    sampling = lines["sampling"].at(shape.layers, 4096 * ROWS[0]) + SHARE * card * GB
    if engine_tokens(shape, card, SHARE) < longest or sampling > room:
        return "no"
    tokens = 0
    while lines["training"].at(shape.layers, tokens + 1024) <= room and tokens < 2**20:
        tokens += 1024
    return f"{tokens // 1024}k" if tokens >= longest else "no"


def largest_share(lines: dict[str, Line], shape, longest: int, card: float) -> str:
    """The largest --engine_memory that leaves the trainer its state, and tokens of cache."""
    state = lines["sampling"].at(shape.layers, 4096 * ROWS[0])
    steps = [i / 20 for i in range(1, 19) if i / 20 * card * GB + state <= card * GB - RESERVE]
    tokens = engine_tokens(shape, card, max(steps, default=0.0))
    return f"{max(steps):.2f} ({tokens // 1000}k)" if tokens >= longest else "no"


def tables(models: list[str]) -> dict[str, str]:
    """Markdown: peaks with 32k tokens, the largest micro-batch, the engine's share, host memory."""
    heads = [f"{ranks} GPU{'s' * (ranks > 1)}{', --offload' * off}" for ranks, off in COLUMNS]
    top = "|---|---|" + "---:|" * len(COLUMNS)
    batch = ["| model | GPU | " + " | ".join(heads) + " |", top]
    share, host = list(batch), ["| model | " + " | ".join(heads) + " |", top[4:]]
    peak = list(host)
    for model in models:
        (script, longest), shape = MODELS[model], SHAPES[model]
        gradient, found, lines_of = 4 * parameters(shape), {}, {}
        for card in CARDS:
            for ranks, offload in COLUMNS:
                # A whole gradient is kept on some cards; else the card changes nothing.
                kept = ranks > 1 and gradient <= REDUCE_ONCE * card * GB
                tried = min(ranks, 8), offload, kept
                if tried not in found:
                    base = next(iter(found.values()), None)
                    found[tried] = measured(script, model, *tried, base)
                fewer = parameters(shape) * (1 / tried[0] - 1 / ranks)
                # The sharded gradient, where it is there at the peak, counts as well.
                less = MOMENTS_BYTES * fewer, (MOMENTS_BYTES if kept else STATE_BYTES) * fewer
                shares = {"sampling": less[0], "training": less[1], "first": 0.0, "other": 0.0}
                lines_of[ranks, offload, card] = {
                    name: Line(points, shares[name]) for name, points in found[tried].items()
                }
        for card in CARDS:
            lines = [lines_of[ranks, offload, card] for ranks, offload in COLUMNS]
            cells = [micro_batch(line, shape, longest, card) for line in lines]
            batch.append(f"| {model} | {card} GB | {' | '.join(cells)} |")
            cells = [largest_share(line, shape, longest, card) for line in lines]
            share.append(f"| {model} | {card} GB | {' | '.join(cells)} |")
        cells = []
        for line in lines:
            both = (line[name].at(shape.layers, 32768) / GB for name in ("training", "sampling"))
            cells.append(" / ".join(f"{size:.1f}" for size in both))
        peak.append(f"| {model} | {' | '.join(cells)} |")
        cells = []
        for (ranks, _), line in zip(COLUMNS, lines, strict=True):
            here, tokens = min(ranks, 8), 4096 * ROWS[0]
            other = (here - 1) * line["other"].at(shape.layers, tokens)
            cells.append(f"{(line['first'].at(shape.layers, tokens) + other) / GB:.0f}")
        host.append(f"| {model} | {' | '.join(cells)} |")
    written = {"peak": peak, "micro_batch": batch, "engine": share, "host": host}
    return {name: "\n".join(rows) for name, rows in written.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--out", default=str(Path(ROOT) / "bench/results/fits.json"))
    arguments = parser.parse_args()
    result = tables(arguments.models)
    save(arguments.out, result)
    print("\n\n".join(result.values()))


if __name__ == "__main__":
    main()
