"""A real language model learns word problems: the problems, and a cold start on the answer's form.

    python -m lab.real_model problems DIR              DIR/train.jsonl, heldout.jsonl, form.jsonl
    python -m lab.real_model cold_start MODEL DIR OUT  MODEL after a few supervised steps: a folder

docs/real-model.md has the commands, the curve and the table. The problems are sums and differences
told in plain English. No pair of numbers of a held-out problem occurs, in any order or operation,
in the training problems or in those of the cold start.

The cold start teaches the form alone: a question, a line break, and "7 + 5 = \\boxed{12}". Its 64
examples are not enough to learn sums from. It also gives the tokenizer a chat template without
turns, so that a prompt is the question itself: a third of the tokens of the model's own template.
"""

import argparse
import json
import random
import zlib
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from trainer.data import chat_ids
from trainer.policy.pretrained import load_model, load_tokenizer
from trainer.run.files import read_jsonl

NAMES = ["Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack"]
THINGS = ["apples", "books", "coins", "pens", "eggs", "stamps", "cards", "shells"]
STORIES = {
    "+": (
        "{name} has {a} {things} and gets {b} more. How many?",
        "{name} finds {a} {things}, then {b}. How many in all?",
    ),
    "-": (
        "{name} has {a} {things} and loses {b}. How many?",
        "{name} buys {a} {things} and gives {b} away. How many?",
    ),
}
NUMBERS = {"train": range(2, 13), "heldout": range(2, 13), "form": range(2, 21)}
SIZES = {"train": 2000, "heldout": 128, "form": 64}
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
EXAMPLES = 16  # of the answer's form, in a step of the cold start


def split_of(a: int, b: int) -> str:
    """The split of a pair of numbers, whichever comes first."""
    place = zlib.crc32(f"{min(a, b)},{max(a, b)}".encode()) % 8
    return {0: "heldout", 1: "form"}.get(place, "train")


def problems(split: str) -> list[dict]:
    """The rows of a split, always the same: problem, answer, and the sum as an expression."""
    rng, rows = random.Random(split), {}
    while len(rows) < SIZES[split]:
        a, b = rng.choice(NUMBERS[split]), rng.choice(NUMBERS[split])
        operation = rng.choice("+-")
        if split_of(a, b) != split or (operation == "-" and a <= b):
            continue
        story = rng.choice(STORIES[operation])
        text = story.format(name=rng.choice(NAMES), things=rng.choice(THINGS), a=a, b=b)
        answer = a + b if operation == "+" else a - b
        rows[text] = {"problem": text, "answer": str(answer), "sum": f"{a} {operation} {b}"}
    return list(rows.values())


def write_problems(folder: Path) -> None:
    """Write each split to a .jsonl file."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SIZES:
        lines = "".join(json.dumps(row) + "\n" for row in problems(split))
        (folder / f"{split}.jsonl").write_text(lines)


def example(tokenizer, row: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels), each [T]: a question with its answer, of which the answer alone is learnt."""
    prompt = chat_ids(tokenizer, row["problem"])
    text = f"{row['sum']} = \\boxed{{{row['answer']}}}"
    answer = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return torch.tensor(prompt + answer), torch.tensor([-100] * len(prompt) + answer)


def cold_start(model_dir: str, rows: list[dict], out: Path, steps: int, rate: float) -> list[float]:
    """Train on the rows, EXAMPLES a step, and save model and tokenizer. Returns the losses."""
    model, tokenizer = load_model(model_dir, torch.float32), load_tokenizer(model_dir)
    tokenizer.chat_template = TEMPLATE
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    found = []
    for step in range(steps):
        places = range(EXAMPLES * step, EXAMPLES * (step + 1))
        ids, labels = zip(*(example(tokenizer, rows[i % len(rows)]) for i in places), strict=True)
        target = pad_sequence(labels, batch_first=True, padding_value=-100)
        # The padding is behind the answers, where causal attention does not look.
        logits = model(input_ids=pad_sequence(ids, batch_first=True), use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), target[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
        print(f"step {step + 1}: loss {found[-1]:.3f}", flush=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("problems").add_argument("folder", type=Path)
    warm = commands.add_parser("cold_start")
    warm.add_argument("model")
    warm.add_argument("folder", type=Path)
    warm.add_argument("out", type=Path)
    warm.add_argument("--steps", type=int, default=6)
    warm.add_argument("--rate", type=float, default=2e-5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "problems":
        write_problems(arguments.folder)
    else:
        rows = read_jsonl(arguments.folder / "form.jsonl")
        cold_start(arguments.model, rows, arguments.out, arguments.steps, arguments.rate)


if __name__ == "__main__":
    main()
