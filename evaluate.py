"""Measure a model as the papers do: avg@n, maj@n and pass@k on maths benchmarks, and what training changed.

    python evaluate.py hbx/JustRL-DeepSeek-1.5B                          # nine benchmarks, JustRL's protocol
    torchrun --nproc_per_node 8 -- evaluate.py hbx/JustRL-DeepSeek-1.5B  # the same numbers, eight times sooner
    python evaluate.py runs/justrl-tiny-seed0 --benchmarks tiny --n 128  # a run's last checkpoint, on a laptop
    python evaluate.py --regrade evals/JustRL-DeepSeek-1.5B              # grade the kept answers again: no GPU
    python evaluate.py --compare evals/base evals/justrl-tiny-seed0/step_000100

An evaluation is a folder: generations.jsonl has every answer, eval.json every number. Killed anywhere, the same command
goes on where it stopped and ends with the same numbers. Each answer is graded by the robust verifier and, side by side,
by JustRL's strict box. JustRL then asks a model about the failures (CompassVerifier-3B), which can only raise a score;
rules can be checked by reading them, so there is no such stage here, and our scores are lower bounds of the published.

JustRL (arXiv 2512.16649, section 3.2), ProRL (arXiv 2505.24864, sections 3.4 and 4).
"""

import argparse
import hashlib
import json
import math
import os
import re
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Literal

import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, HfArgumentParser
from transformers.hf_argparser import HfArg

import rewards
from trainer import data, plot, rollout
from trainer.checkpoint import make_folder, write_atomically
from trainer.policy import Policy, load_tokenizer, start_ranks
from trainer.run import launch, model_folder
from trainer.sources.hub import BENCHMARKS
from trainer.sources.load import load_problems
from trainer.sources.logic import logic_score

AVG4 = (
    "math500",
    "minerva",
    "olympiad",
)  # JustRL draws 4 answers, not 32, to each problem of the three large ones
PROTOCOLS = {
    "justrl": dict(
        benchmarks=9,
        n=32,
        temperature=0.7,
        top_p=0.9,
        max_tokens=31744,
        suffix=f" {data.STEP_BY_STEP}",
    ),
    "prorl": dict(
        benchmarks=6,
        n=16,
        temperature=0.6,
        top_p=0.95,
        max_tokens=32768,
        suffix=f" {data.THINK_STEP_BY_STEP}",
    ),
}
RULE = """regimes, by the rise of pass@K from BASE to TRAINED (K: the largest k that all have), for each task:
diminish: pass@K did not rise by more than the half-width of its paired 95% interval over problems;
plateau: it rose, but a MIDDLE already had 3/4 of the rise (no MIDDLE: it rose less than half as much as pass@1);
sustained: it rose, and no MIDDLE had 3/4 of the rise (no MIDDLE: at least half as much as pass@1)."""


@dataclass
class Arguments:
    """How to measure. What is left out takes the protocol's value."""

    protocol: Literal["justrl", "prorl"] = HfArg(
        default="justrl", help="whose settings to start from"
    )
    benchmarks: str | None = HfArg(
        default=None, help=f"any of {','.join(BENCHMARKS)}, tiny, tiny/ood, logic:held_out ..."
    )
    n: int | None = HfArg(
        default=None, help="answers a problem (justrl 32, the three large benchmarks 4; prorl 16)"
    )
    temperature: float | None = HfArg(
        default=None, help="sampling temperature (justrl 0.7, prorl 0.6)"
    )
    top_p: float | None = HfArg(default=None, help="nucleus (justrl 0.9, prorl 0.95)")
    max_tokens: int | None = HfArg(
        default=None, help="longest answer, tokens (justrl 31744, prorl 32768)"
    )
    suffix: str | None = HfArg(
        default=None, help="text behind a problem (the protocol's sentence; tiny world: none)"
    )
    system: str = HfArg(default="", help="system message (none)")
    engine: Literal["auto", "vllm", "transformers"] = HfArg(
        default="auto", help="auto: vllm if there is a GPU"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = HfArg(
        default="auto", help="auto: bfloat16 on a GPU, else float32"
    )
    seed: int = HfArg(
        default=0, help="every answer is drawn from (seed, benchmark, problem, sample) alone"
    )
    limit: int | None = HfArg(
        default=None, help="only the first so many problems of each benchmark"
    )
    chunk: int = HfArg(
        default=512, help="answers sampled together; a kill loses no more than these"
    )


# -------------------------------------------------------------------------------------------------------- the measures


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n answers, drawn without replacement, hold one of the c correct: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of pass@k (arXiv 2107.03374), as a product, so that no factorial overflows.
    Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}.")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / j for j in range(n - c + 1, n + 1))


def powers(n: int) -> list[int]:
    """1, 2, 4, ... and n itself."""
    return sorted({2**i for i in range(n.bit_length())} | {n})


def majority(answers: list[str | None], correct: list[bool]) -> float:
    """maj@n: is the commonest answer correct? A tie counts by the share of its winners that are (a random tie-break).

    Answers are alike when their text is, spaces and \\dfrac aside; no answer has no vote. Merging equal values
    instead would be unfair: the verifier knows equal right answers, but not equal wrong ones.
    """
    votes, verdict = Counter(), {}
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            key = re.sub(r"\\[dt]frac", r"\\frac", "".join(answer.split()).replace("$", ""))
            votes[key] += 1
            verdict.setdefault(key, right)
    if not votes:
        return 0.0
    most = max(votes.values())
    return fmean(float(verdict[key]) for key, count in votes.items() if count == most)


def distinct_4gram(ids: list[int]) -> float:
    """Different 4-grams of tokens over all of them, in (0, 1]: near 0 when a text repeats itself. 1 under 4 tokens."""
    grams = list(zip(ids, ids[1:], ids[2:], ids[3:], strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0


# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
T975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)


def student_t(df: int) -> float:
    """The 97.5 % quantile of Student's t: from the table, else Cornish-Fisher (there, error below 0.001)."""
    return (
        T975[df - 1] if df <= len(T975) else 1.95996 + 2.37227 / df + 2.82250 / df**2
    )  # with z = 1.95996 put in


def interval(values: list[float], draws: int = 1) -> tuple[float, float]:
    """95 % interval of a mean over problems (values in [0, 1], each the mean of `draws` independent answers).

    The answers to one problem are alike, so problems are what varies: Wilson's interval with the effective number of
    independent answers, mean (1 - mean) / (variance of the mean), and Student's t. It stays in [0, 1] and keeps its
    width when every problem is solved, or none is, where mean +- 2 standard errors has no width at all.
    """
    problems, mean = len(values), fmean(values)
    if problems < 2:
        return 0.0, 1.0
    spread, error = mean * (1 - mean), variance(values) / problems
    effective = (
        problems if spread < 1e-12 else min(spread / error if error else math.inf, problems * draws)
    )
    t2 = student_t(problems - 1) ** 2 / effective
    centre, half = (mean + t2 / 2) / (1 + t2), math.sqrt(t2 * spread + t2 * t2 / 4) / (1 + t2)
    return max(0.0, min(mean, centre - half)), min(
        1.0, max(mean, centre + half)
    )  # rounding must not shut out the mean


def margin(differences: list[float]) -> float:
    """Half-width of the paired 95 % interval of a mean difference over problems (in the lab, over seeds)."""
    count = len(differences)
    return student_t(count - 1) * stdev(differences) / math.sqrt(count) if count > 1 else 1.0


def regime(rise_1: float, rise_max: float, noise: float, reached: float | None = None) -> str:
    """ProRL's three regimes (section 4.2) by the rule that --help states.

    reached: share of rise_max that a checkpoint in the middle already had; None when there was none.
    """
    if rise_max <= noise + 1e-9:  # but for rounding
        return "diminish"
    early = rise_max < rise_1 / 2 if reached is None else reached >= 0.75
    return "plateau" if early else "sustained"


def spearman(x: list[float], y: list[float]) -> float | None:
    """Rank correlation; None under 3 points or when one side is constant. Ties share their mean rank."""

    def ranks(values):
        return [
            sum(v < value for v in values) + sum(v == value for v in values) / 2 for value in values
        ]

    ranks_x, ranks_y = ranks(x), ranks(y)
    if len(x) < 3 or len(set(ranks_x)) == 1 or len(set(ranks_y)) == 1:
        return None
    return torch.corrcoef(torch.tensor([ranks_x, ranks_y]))[0, 1].item()


# ---------------------------------------------------------------------------------------------------------- generation


def find_models(model: str, every: bool = False) -> list[tuple[str, str]]:
    """[(name, what transformers loads)]: a hub id, model folder, tiny:NAME, or run folder's last (every) checkpoint"""
    if model.startswith("tiny:"):
        return [(model.replace(":", "-"), model_folder(model))]
    path = Path(model)
    if (path / "metrics.jsonl").exists() or (path / "checkpoints").is_dir():
        steps = sorted(
            p for p in path.glob("checkpoints/step_??????") if (p / "config.json").is_file()
        )
        if not steps:
            raise FileNotFoundError(
                f"{model} is a run folder without a checkpoint yet: wait for its first one."
            )
        return [
            (f"{path.resolve().name}/{step.name}", str(step))
            for step in (steps if every else steps[-1:])
        ]
    if every:
        raise ValueError(
            f"--all needs a run folder, with metrics.jsonl and checkpoints/, which {model} is not."
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"{model} has no config.json: give a save_pretrained folder, a run folder or a hub id."
        )
    if not path.is_dir() and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        raise FileNotFoundError(
            f"There is no folder {model}, and it is not a hub id (owner/name) either."
        )
    *_, run, parent, name = ("", "", *path.absolute().parts)
    return [(f"{run}/{name}" if parent == "checkpoints" else name, model)]


def load_benchmarks(
    names: list[str], files: dict[str, str], limit: int | None
) -> dict[str, list[data.Problem]]:
    """{benchmark: problems}, from the user's file, the embedded world or the hub."""
    tiny = {
        name: f"tiny:eval/{name[5:] or 'mixed'}" for name in names if name.split("/")[0] == "tiny"
    }
    logic = {name: name for name in names if name.startswith("logic:")}
    sources = {name: name for name in BENCHMARKS} | tiny | logic | files
    if unknown := [name for name in names if name not in sources]:
        raise ValueError(
            f"No benchmark is called {unknown[0]}: use {', '.join(BENCHMARKS)}, tiny, logic:... or --data."
        )
    if unused := files.keys() - set(names):
        raise ValueError(f"--data names {', '.join(unused)}, which --benchmarks does not list.")
    return {name: load_problems(sources[name])[:limit] for name in names}


def settle(args: Arguments, name: str, model: str, problems: dict, tokenizer) -> tuple[dict, dict]:
    """(all that the answers depend on, which a continuation must share; the prompts as {benchmark: lists of ids})."""
    protocol, gpu = PROTOCOLS[args.protocol], torch.cuda.is_available()
    settings = {
        key: protocol.get(key) if value is None else value for key, value in asdict(args).items()
    }
    settings |= {
        "name": name,
        "model": model,
        "benchmarks": {},
        "n": {},
        "suffix": {},
        "weights": [],
    }
    settings["engine"] = rollout.choose_engine(args.engine)
    settings["dtype"] = ("bfloat16" if gpu else "float32") if args.dtype == "auto" else args.dtype
    for path in sorted(
        Path(model).glob("*.safetensors")
    ):  # the same folder may hold another model tomorrow
        settings["weights"].append(hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    prompts = {}
    for bench, own in problems.items():
        few, plain = args.protocol == "justrl" and bench in AVG4, bench.split("/")[0] == "tiny"
        suffix = args.suffix if args.suffix is not None else "" if plain else protocol["suffix"]
        settings["benchmarks"][bench] = [len(own), data.fingerprint(own)]
        settings["n"][bench], settings["suffix"][bench] = (
            args.n or (4 if few else protocol["n"]),
            suffix,
        )
        template = data.Template(suffix, args.system)
        prompts[bench] = [data.prompt_ids(tokenizer, problem, template) for problem in own]
    longest = max(len(prompt) for own in prompts.values() for prompt in own)
    context = (
        getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None) or math.inf
    )
    if context <= longest:
        raise ValueError(
            f"The longest prompt has {longest} tokens: a context of {context} leaves no room to answer."
        )
    settings["max_tokens"] = min(settings["max_tokens"], context - longest)
    return settings | {"max_length": longest + settings["max_tokens"]}, prompts


def claim(out: Path, settings: dict) -> None:
    """Mark the folder as this evaluation's; raises ValueError, with what differs, when it is another's."""
    make_folder(out)
    if not (out / "settings.json").exists():
        write_atomically(out / "settings.json", json.dumps(settings, indent=1))
    old = json.loads((out / "settings.json").read_text())
    differing = [
        f"{key} ({old.get(key)}, now {settings[key]})"
        for key in settings
        if old.get(key) != settings[key]
    ]
    if differing:
        raise ValueError(
            f"{out} holds another evaluation, with other {', '.join(differing)}: choose another --out."
        )


def read_records(out: Path) -> dict[tuple[str, int], dict]:
    """The finished problems of all ranks, {(benchmark, index): record}. A line torn by a kill is no record."""
    records = {}
    for path in sorted(out.glob("generations*.jsonl")):
        for line in path.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                record = json.loads(line)
                records[record["benchmark"], record["index"]] = record
    return records


def generate(settings: dict, problems: dict, prompts: dict, tokenizer, out: Path, engine=None):
    """Sample what is missing and append it to this rank's file chunk by chunk; returns the engine, None if not needed.

    The chunks are the same whatever is already there and however many ranks share them, and a chunk is redone whole:
    then neither a kill nor the number of GPUs changes a batch, and so not a single token.
    """
    rank, world, chunks = dist.get_rank(), dist.get_world_size(), []
    for name, n in settings["n"].items():
        size, indices = max(1, settings["chunk"] // n), range(len(prompts[name]))
        chunks += [(name, indices[start : start + size]) for start in indices[::size]]
    done = read_records(out).keys()
    todo = [
        (name, chunk)
        for name, chunk in chunks[rank::world]
        if any((name, i) not in done for i in chunk)
    ]
    if not todo:
        return engine
    if engine is None:
        dtype, length = getattr(torch, settings["dtype"]), settings["max_length"]
        engine = rollout.make_engine(
            settings["engine"], settings["model"], tokenizer, max_length=length, dtype=dtype
        )
    else:  # --all: vLLM does not reliably give its memory back, so the next checkpoint moves into the same engine
        engine.load_weights(Policy(AutoModelForCausalLM.from_pretrained(settings["model"])))
    sampling = data.Sampling(*(settings[key] for key in ("max_tokens", "temperature", "top_p")))
    path = out / ("generations.jsonl" if world == 1 else f"generations.rank{rank}.jsonl")
    with (
        path.open("a") as file,
        tqdm(total=sum(len(c) for _, c in todo), unit="problem", disable=rank > 0) as bar,
    ):
        file.write("\n" * (path.stat().st_size > 0))  # ends a line that a kill may have torn
        for name, chunk in todo:
            bar.set_postfix_str(name)
            seeds = [
                rollout.request_seed(settings["seed"], zlib.crc32(name.encode()), i) for i in chunk
            ]
            groups = engine.generate(
                [prompts[name][i] for i in chunk], settings["n"][name], seeds, sampling
            )
            for i, group in zip(chunk, groups, strict=True):
                answers = [
                    {
                        "text": tokenizer.decode(r.response_ids, skip_special_tokens=True),
                        "tokens": len(r.response_ids),
                    }
                    | {
                        "truncated": r.truncated,
                        "distinct_4gram": distinct_4gram(r.response_ids.tolist()),
                    }
                    for r in group
                ]
                record = (
                    {"benchmark": name, "index": i}
                    | asdict(problems[name][i])
                    | {"answers": answers}
                )
                file.write(json.dumps(record) + "\n")
            file.flush()
            bar.update(len(chunk))
    return engine


def merge(out: Path, settings: dict) -> list[dict]:
    """All records in order, written back as one generations.jsonl. Raises ValueError when some are missing."""
    found = read_records(out)
    wanted = [
        (name, i) for name, (count, _) in settings["benchmarks"].items() for i in range(count)
    ]
    if missing := len(set(wanted) - found.keys()):
        raise ValueError(
            f"{out} lacks {missing} of {len(wanted)} problems: run the evaluation again to finish it."
        )
    write_atomically(
        out / "generations.jsonl", "".join(json.dumps(found[key]) + "\n" for key in wanted)
    )
    for path in out.glob("generations.rank*.jsonl"):
        path.unlink()
    return [found[key] for key in wanted]


# -------------------------------------------------------------------------------------------------- grades and reports


def grade(record: dict) -> dict:
    """What reports need of a problem: how many of n answers each verifier accepts, and means over the answers."""
    texts, gold = [answer["text"] for answer in record["answers"]], record["answer"]
    boxes = [rewards.last_boxed(text) for text in texts]
    robust = [score > 0 for score in rewards.robust_many(texts, [gold] * len(texts))]
    strict = [rewards.strict_box(text, gold) > 0 for text in texts]
    if record[
        "verify"
    ]:  # a logic puzzle has a verifier of its own; partial credit does not solve it
        boxes = [
            (re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL) or [None])[-1] for text in texts
        ]
        robust = strict = [logic_score(text, record["verify"]) == 1 for text in texts]
    means = {
        key: fmean(a[key] for a in record["answers"])
        for key in ("truncated", "tokens", "distinct_4gram")
    }
    means |= {"majority": majority(boxes, robust), "no_answer": fmean(box is None for box in boxes)}
    counts = {"n": len(texts), "robust": sum(robust), "strict": sum(strict)}
    return (
        {key: record[key] for key in ("benchmark", "index", "task", "text", "answer")}
        | counts
        | means
    )


def curve(problems: list[dict], verifier: str) -> dict[str, list[float]]:
    """{k: [pass@k, low, high]}, low to high the 95 % interval over problems; k = 1, 2, 4, ... n. avg@n is pass@1."""
    n, points = problems[0]["n"], {}
    for k in powers(n):
        values = [pass_at_k(n, problem[verifier], k) for problem in problems]
        points[str(k)] = [fmean(values), *interval(values, draws=n // k)]
    return points


def report(problems: list[dict]) -> dict:
    solved = [p["robust"] / p["n"] for p in problems]
    counts = {"problems": len(problems), "n": problems[0]["n"]}
    counts |= {"solve_all": solved.count(1), "solve_none": solved.count(0)}
    keys = ("majority", "truncated", "no_answer", "tokens", "distinct_4gram")
    means = {key: fmean(p[key] for p in problems) for key in keys}
    return (
        counts | means | {v: curve(problems, v) for v in ("robust", "strict")} | {"solved": solved}
    )


def by_task(problems: list[dict]) -> dict[str, list[dict]]:
    """Graded problems by task: a benchmark, or benchmark/task where a benchmark mixes several."""
    kinds, tasks = {}, {}
    for p in problems:
        kinds.setdefault(p["benchmark"], set()).add(p["task"])
    for p in problems:
        name = p["benchmark"]
        tasks.setdefault(f"{name}/{p['task']}" if len(kinds[name]) > 1 else name, []).append(p)
    return tasks


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Aligned columns, the first to the left; short rows are filled up."""
    cells = [head, *(row + [""] * (len(head) - len(row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        print(
            "  ".join(
                [
                    first.ljust(widths[0]),
                    *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True)),
                ]
            )
        )
    print()


def pct(share: float) -> str:
    return f"{100 * share:.1f}"


def summarise(out: Path, settings: dict) -> None:
    """Grade every answer, print the tables, write eval.json."""
    problems = [
        grade(record)
        for record in tqdm(merge(out, settings), desc="grading", unit="problem", leave=False)
    ]
    benchmarks = {
        b: report([p for p in problems if p["benchmark"] == b]) for b in settings["benchmarks"]
    }
    tasks = {task: report(own) for task, own in by_task(problems).items()}
    mean = {v: fmean(r[v]["1"][0] for r in benchmarks.values()) for v in ("robust", "strict")}
    result = {
        "name": settings["name"],
        "settings": settings,
        "mean": mean,
        "benchmarks": benchmarks,
        "tasks": tasks,
    }
    write_atomically(out / "eval.json", json.dumps(result | {"problems": problems}, indent=1))

    head = [
        "problems",
        "n",
        "avg@n",
        "95 % interval",
        "strict",
        "maj@n",
        "all",
        "none",
        "truncated",
        "no answer",
    ]
    rows, ladder, ks = [], [], powers(max(r["n"] for r in benchmarks.values()))
    for label, r in (benchmarks | tasks).items():
        avg, low, high = map(pct, r["robust"]["1"])
        row = [
            label,
            str(r["problems"]),
            str(r["n"]),
            avg,
            f"{low} - {high}",
            pct(r["strict"]["1"][0]),
        ]
        row += [
            pct(r["majority"]),
            str(r["solve_all"]),
            str(r["solve_none"]),
            pct(r["truncated"]),
            pct(r["no_answer"]),
        ]
        rows.append([*row, f"{r['tokens']:.0f}", f"{r['distinct_4gram']:.2f}"])
        ladder.append(
            [label, *(pct(r["robust"][str(k)][0]) if str(k) in r["robust"] else "" for k in ks)]
        )
    rows.append(
        [f"mean of {len(benchmarks)}", "", "", pct(mean["robust"]), "", pct(mean["strict"])]
    )
    print(
        f"\n{settings['name']}: shares in %; solved by the robust verifier, strict: avg@n by the strict box\n"
    )
    print_table(["", *head, "tokens", "distinct-4"], rows)
    print_table(["", *(f"pass@{k}" for k in ks)], ladder)
    print(f"Written to {out}/eval.json")


# ---------------------------------------------------------------------------------------------------------- comparison


def read_eval(folder: str) -> dict:
    path = Path(folder) / "eval.json" if Path(folder).is_dir() else Path(folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}: make it with `python evaluate.py MODEL --out FOLDER`."
        )
    return json.loads(path.read_text())


def compare(evaluations: list[dict]) -> dict:
    """ProRL's questions, task by task, to [base, trained, *middles]: values of eval.json.

    Raises ValueError when there are fewer than two, with no task in common, or with different problems of one.
    """
    if len(evaluations) < 2:
        raise ValueError("--compare takes two evaluations or more: BASE TRAINED [MIDDLE ...].")
    grouped, tasks = [by_task(evaluation["problems"]) for evaluation in evaluations], {}
    for task in [task for task in grouped[0] if all(task in group for group in grouped)]:
        seen = [{p["text"]: p for p in group[task]} for group in grouped]
        if any(s.keys() != seen[0].keys() for s in seen):
            raise ValueError(
                f"These evaluations saw different problems of {task}: use one file and one --limit."
            )
        k = powers(min(p["n"] for s in seen for p in s.values()))[-1]
        once, most = (
            [[pass_at_k(s[t]["n"], s[t]["robust"], q) for t in seen[0]] for s in seen]
            for q in (1, k)
        )
        pass_1, pass_max = [fmean(values) for values in once], [fmean(values) for values in most]
        rise_1, rise_max = pass_1[1] - pass_1[0], pass_max[1] - pass_max[0]
        noise = margin([after - before for before, after in zip(most[0], most[1], strict=True)])
        reached = (
            (max(pass_max[2:]) - pass_max[0]) / rise_max if pass_max[2:] and rise_max > 0 else None
        )
        tasks[task] = {
            "problems": len(seen[0]),
            "k": k,
            "pass_1": pass_1,
            "pass_max": pass_max,
            "rise_1": rise_1,
        }
        tasks[task] |= {"rise_max": rise_max, "margin": noise, "reached": reached}
        tasks[task]["regime"] = regime(rise_1, rise_max, noise, reached)
    if not tasks:
        raise ValueError(
            f"These evaluations share no task: {' | '.join(', '.join(group) for group in grouped)}."
        )
    start = [row["pass_max"][0] for row in tasks.values()]
    correlation = {
        key: spearman(start, [row[key] for row in tasks.values()]) for key in ("rise_1", "rise_max")
    }
    return {
        "names": [e["name"] for e in evaluations],
        "rule": RULE,
        "tasks": tasks,
        "spearman": correlation,
    }


def print_comparison(result: dict) -> None:
    rows = []
    for task, r in result["tasks"].items():
        (a1, b1, *_), (am, bm, *_), reached = r["pass_1"], r["pass_max"], r["reached"]
        row = [
            task,
            str(r["problems"]),
            f"{pct(a1)} -> {pct(b1)}",
            f"{100 * r['rise_1']:+.1f}",
            str(r["k"]),
        ]
        row += [f"{pct(am)} -> {pct(bm)}", f"{100 * r['rise_max']:+.1f} +- {pct(r['margin'])}"]
        rows.append([*row, "" if reached is None else f"{100 * reached:.0f} %", r["regime"]])
    print(
        f"\n{' -> '.join(result['names'][:2])}, in %, robust verifier; by MIDDLE: share of the rise it had\n"
    )
    print_table(
        ["", "problems", "pass@1", "rise", "K", "pass@K", "rise", "by MIDDLE", "regime"], rows
    )
    print(
        f"{result['rule']}\n\nSpearman correlation over {len(rows)} tasks of BASE's pass@K with the rise of pass@1:"
    )
    ranks = {
        key: "none (it takes 3 tasks that differ)" if r is None else f"{r:.2f}"
        for key, r in result["spearman"].items()
    }
    print("{rise_1}, of pass@K: {rise_max}.".format(**ranks))
    print(
        "Negative: the weaker the start, the stronger the gain. Noise in the start and the ceiling push it down too."
    )


# -------------------------------------------------------------------------------------------------------- command line


def evaluate(args: Arguments, paths: argparse.Namespace) -> None:
    if wrong := [text for text in paths.data if "=" not in text]:
        raise ValueError(f"--data takes NAME=FILE, not {wrong[0]}; put MODEL before it.")
    names = (
        args.benchmarks or ",".join([*BENCHMARKS][: PROTOCOLS[args.protocol]["benchmarks"]])
    ).split(",")
    models = find_models(paths.model, paths.all)
    problems = load_benchmarks(names, dict(text.split("=", 1) for text in paths.data), args.limit)
    os.environ.setdefault("VLLM_MEMORY", "0.9")  # there is no trainer to share the GPU with
    engine, _ = None, start_ranks()
    rank = dist.get_rank()
    for name, model in models:
        out = Path(paths.out or "evals") / (name if paths.all or not paths.out else "")
        try:
            tokenizer = load_tokenizer(model)
            settings, prompts = settle(args, name, model, problems, tokenizer)
        except OSError as error:
            raise FileNotFoundError(
                f"{model} can be loaded neither from here nor from the hub ({error})."
            ) from error
        if rank == 0:
            claim(out, settings)
        dist.barrier()  # nobody samples before the folder is known to be ours
        engine = generate(settings, problems, prompts, tokenizer, out, engine)
        dist.barrier()
        if rank == 0:
            summarise(out, settings)


def main(parser: HfArgumentParser) -> None:
    args, paths = parser.parse_args_into_dataclasses()
    if paths.compare:
        evaluations, out = (
            [read_eval(folder) for folder in paths.compare],
            Path(paths.out or "evals"),
        )
        result = compare(evaluations)
        print_comparison(result)
        make_folder(out)
        write_atomically(out / "compare.json", json.dumps(result, indent=1))
        plot.plot_evals(evaluations, out / "compare.png", result)
        print(f"\nWritten to {out}/compare.json and {out}/compare.png")
    elif not paths.model:
        raise ValueError(
            "say what to measure: python evaluate.py MODEL, or --compare BASE TRAINED."
        )
    elif paths.regrade:
        out = Path(paths.model)
        if not (out / "settings.json").is_file():
            raise FileNotFoundError(
                f"{out} is not the folder of an evaluation: it has no settings.json."
            )
        summarise(out, json.loads((out / "settings.json").read_text()))
    else:
        evaluate(args, paths)


if __name__ == "__main__":
    parser = HfArgumentParser(Arguments, description=__doc__, epilog=RULE, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        metavar="MODEL",
        help="hub id, model folder, tiny:base, or run folder (its last checkpoint)",
    )
    add("--all", action="store_true", help="every checkpoint of a run folder")
    add(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="a benchmark from a local file",
    )
    add("--out", help="folder to write to and continue from (evals/NAME; --compare: evals)")
    add(
        "--regrade",
        action="store_true",
        help="MODEL is an evaluation's folder: grade its answers again",
    )
    add(
        "--compare",
        nargs="+",
        metavar="EVAL",
        help="evaluations, folders or eval.json: BASE TRAINED [MIDDLE ...]",
    )
    launch(main, parser)
