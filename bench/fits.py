"""docs/running.md's tables of memory, from rehearsals.

    python -m bench.fits                              rehearse, save, and print the tables
    python -m bench.fits --read                       only print the tables of what is saved

Each configuration is rehearsed with three and with four layers. With large micro-batches, all bytes
are linear in the layers and in the tokens, whose slope is measured once a model. So a few short
rehearsals give the bytes of the whole model; tests/test_rehearse.py compares these with a whole
rehearsal. 32 GPUs are computed from 8, with a smaller share of the state. A GPU keeps
rehearse.RESERVE free.
"""

import argparse
import json
import sys

from bench.rehearse import CARDS, RESERVE, arguments_of, rehearsals  # isort: skip

from bench.common import RESULTS, save
from bench.formula import GB, config_of, engine_tokens, parameters
from trainer.policy.loading import REDUCE_ONCE

MODELS = {  # (the script that trains it, tokens of its longest sequence)
    "DeepSeek-R1-Distill-Qwen-1.5B": ("justrl.py", 16384),
    "Qwen3-4B-Base": ("liteppo.py", 9216),
    "Qwen3-8B-Base": ("liteppo.py", 9216),
}
COLUMNS = {  # (ranks, --offload)
    "1 GPU, --offload": (1, True),
    "1 GPU": (1, False),
    "8 GPUs": (8, False),
    "32 GPUs": (32, False),
}
MOMENTS_BYTES = 12  # of a parameter: float32 weight and AdamW's two moments
STATE_BYTES = 16  # and the gradient
LAYERS = 3, 4  # FSDP may hold the weights of three at once
TOKENS = 16 * 4096, 32 * 4096  # of a micro-batch. With fewer the embedding decides, not the layers
DEFAULT = 32768  # --tokens_per_micro_batch
FLAGS = "--max_prompt_tokens 1024 --max_response_tokens 3072 --eval_every 0 --engine_memory 0.9 "
FLAGS += "--updates_per_step 2"  # the second one with AdamW's moments


# --- rehearsing ---


def keeps_gradient(model: str, ranks: int, card: float) -> bool:
    """Whether each rank keeps a whole gradient between micro-batches."""
    return ranks > 1 and 4 * parameters(config_of(model)) <= REDUCE_ONCE * card * GB


def rehearse(model: str) -> list[dict]:
    """The peaks of a model's configurations, in bytes.

    "training" and "sampling" (without the engine) are a GPU's, "first" and "other" the host memory
    of the first and of any other rank. Only the first configuration has micro-batches of two sizes.
    """
    tried = {}
    for card in CARDS:
        for ranks, offload in COLUMNS.values():
            # Without a kept gradient the card changes nothing. 16 GB keep not even a few layers'.
            kept = keeps_gradient(model, ranks, card)
            tried[min(ranks, 8), offload, kept] = max(CARDS) if kept else 16
    rows = []
    for number, ((ranks, offload, kept), card) in enumerate(tried.items()):
        for layers in LAYERS:
            for tokens in TOKENS[: 2 if number == 0 else 1]:
                command = f"{MODELS[model][0]} --ranks {ranks} --gpu {card} --layers {layers} "
                command += f"--model m/{model} --tokens_per_micro_batch {tokens} {FLAGS}"
                command += " --offload" if offload else ""
                row = {"model": model, "ranks": ranks, "offload": offload, "kept": kept}
                row |= {"layers": layers, "tokens": tokens} | peaks(command)
                print(row, flush=True)
                rows.append(row)
    return rows


def peaks(command: str) -> dict:
    """Rehearse a step on the first and the last rank. Exits with the fault if there is one."""
    found = [facts for *_, facts in rehearsals(*arguments_of(command.split()), (1,))]
    for facts in found:
        if facts["fault"]:
            sys.exit(facts["fault"])
    stages = found[0]["peaks"]
    first, other = (max(host for *_, host in facts["peaks"]) for facts in (found[0], found[-1]))
    return {
        "training": max(gpu for _, awake, gpu, _ in stages if not awake),
        "sampling": max(gpu for stage, awake, gpu, _ in stages if awake and stage != "start"),
        "first": first,
        "other": other,
    }


# --- the whole model ---


class Whole:
    """Bytes of a model with all its layers, in one configuration on one card."""

    def __init__(self, rows: list[dict], model: str, ranks: int, offload: bool, card: float):
        self.config, self.ranks, self.card = config_of(model), ranks, card
        self.longest, self.kept = MODELS[model][1], keeps_gradient(model, ranks, card)
        rows = [row for row in rows if row["model"] == model]
        same = {"ranks": min(ranks, 8), "offload": offload, "kept": self.kept}
        self.rows = [row for row in rows if row.items() >= same.items()]
        self.first = rows[: len(LAYERS) * len(TOKENS)]

    def on_line(self, name: str, rows: list[dict], tokens: int = TOKENS[0]) -> float:
        """A peak with all layers, on the line through the two rows with so many tokens."""
        few, more = (row[name] for row in rows if row["tokens"] == tokens)
        return few + (more - few) * (self.config.num_hidden_layers - LAYERS[0])

    def beyond_eight(self, size: int) -> float:
        """Bytes that more than 8 ranks save. size: the sharded bytes of a parameter."""
        return size * parameters(self.config) * (1 / min(self.ranks, 8) - 1 / self.ranks)

    def training(self, tokens: int) -> float:
        """The peak of an update with micro-batches of so many tokens."""
        small, large = (self.on_line("training", self.first, each) for each in TOKENS)
        slope = (large - small) / (TOKENS[1] - TOKENS[0])
        # A kept gradient is whole on every rank.
        saved = self.beyond_eight(MOMENTS_BYTES if self.kept else STATE_BYTES)
        return self.on_line("training", self.rows) + slope * (tokens - TOKENS[0]) - saved

    def sampling(self) -> float:
        """The peak of the trainer while vLLM samples."""
        return self.on_line("sampling", self.rows) - self.beyond_eight(MOMENTS_BYTES)

    def host(self) -> float:
        """The peak of one machine of at most 8 ranks."""
        others = min(self.ranks, 8) - 1
        return self.on_line("first", self.rows) + others * self.on_line("other", self.rows)

    def micro_batch(self) -> str:
        """The largest --tokens_per_micro_batch in 1,024 tokens; "no" where there is none."""
        tokens = 0
        while self.training(tokens + 1024) <= self.card * GB - RESERVE:
            tokens += 1024
        return f"{tokens // 1024}k" if tokens >= self.longest else "no"

    def engine_share(self) -> str:
        """The largest --engine_memory that leaves the trainer its state, and tokens of cache."""
        room = self.card * GB - RESERVE - self.sampling()
        share = max((i / 20 for i in range(1, 19) if i / 20 * self.card * GB <= room), default=0.0)
        tokens = engine_tokens(self.config, self.card, share)
        return f"{share:.2f}, {tokens // 1000}k" if tokens >= self.longest else "no"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Markdown, with numbers in the last columns, one for each of COLUMNS."""
    lines = [[*heads, *COLUMNS], *rows]
    rule = "|" + "---|" * len(heads) + "---:|" * len(COLUMNS)
    first, *others = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([first, rule, *others])


def tables(rows: list[dict]) -> dict[str, str]:
    """Markdown: peaks with 32k tokens, the largest micro-batch and engine's share, host memory."""
    peak, largest, host = [], [], []
    for model in {row["model"]: None for row in rows}:
        name = model.removeprefix("DeepSeek-")
        by_card = {
            card: [Whole(rows, model, *column, card) for column in COLUMNS.values()]
            for card in CARDS
        }
        for card, wholes in by_card.items():
            cells = [(whole.micro_batch(), whole.engine_share()) for whole in wholes]
            both = ["no" if "no" in pair else ", ".join(pair) for pair in cells]
            largest.append([name, f"{card} GB", *both])
        roomy = by_card[max(CARDS)]  # where a whole gradient is kept if anywhere
        sizes = [(whole.training(DEFAULT) / GB, whole.sampling() / GB) for whole in roomy]
        peak.append([name, *(f"{training:.1f} / {sampling:.1f}" for training, sampling in sizes)])
        host.append([name, *(f"{whole.host() / GB:.0f}" for whole in roomy)])
    return {
        "peak": table(["model"], peak),
        "largest": table(["model", "GPU"], largest),
        "host": table(["model"], host),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--read", action="store_true", help="only print what is saved")
    out = RESULTS / "fits.json"
    if parser.parse_args().read:
        rows = json.loads(out.read_text())["rows"]
    else:
        rows = [row for model in MODELS for row in rehearse(model)]
        save(out, {"rows": rows})
    print("\n\n".join(tables(rows).values()))


if __name__ == "__main__":
    main()
