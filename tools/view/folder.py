"""Read the folder of a run or of an evaluation, for the page.

A Source is a run or an evaluation. Each of its Groups holds answers to one problem, at one step of
the run or in one benchmark of the evaluation.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from tools.evaluation.grading import graded_texts, read_answers, verdicts
from tools.evaluation.statistics import pass_at_k, powers
from tools.panels import is_number
from tools.plot import read_metrics, resets
from tools.view.tokens import Pieces
from trainer.errors import Refused
from trainer.policy.pretrained import load_tokenizer
from trainer.run import kept
from trainer.run.files import checkpoints, read_json
from trainer.run.launch import model_folder


@dataclass
class Answer:
    """One answer. pieces: the texts of its tokens, or None if only the whole text is known."""

    sample: int
    text: str
    truncated: bool
    length: int  # tokens
    robust: bool  # verdicts of the two verifiers
    strict: bool
    reward: float | None = None
    advantage: float | None = None
    minibatch: int | None = None
    pieces: list[str] | None = None
    special: list[bool] = field(default_factory=list)
    columns: dict[str, np.ndarray] = field(default_factory=dict)  # of kept.TOKEN_COLUMNS
    start: int | None = None  # where its tokens begin on the page, set by page.pack


@dataclass
class Group:
    """Answers to one problem. step: of the run; in an evaluation, the number of its benchmark."""

    kind: str  # "train", "held_out" or "benchmark"
    step: int
    place: int
    problem: str
    gold: str
    task: str
    solved: float  # share of all answers, kept or not
    prompt: str  # as the model saw it, "" where it was not kept
    answers: list[Answer]
    facts: list[str] = field(default_factory=list)  # what else is shown of all answers


@dataclass
class Source:
    """A run or an evaluation. curves: {name: values} over `steps`, None where a step has none."""

    name: str
    kind: str  # "run" or "evaluation"
    about: dict[str, str]
    groups: list[Group]
    labels: list[str] = field(default_factory=list)  # an evaluation's benchmarks
    steps: list[int] = field(default_factory=list)
    curves: dict[str, list] = field(default_factory=dict)
    resets: list[int] = field(default_factory=list)
    clip: tuple[float, float] = (0.2, 0.2)
    left_out: str = ""


def load(folder: Path, steps: range | None = None, share: float = 1.0) -> Source:
    """Read the folder of a run or of an evaluation. Raises Refused if it is neither.

    steps: of a run, the ones to read; None: all. share: the part of a page that it may fill.
    """
    if any(folder.glob("generations*.jsonl")):
        return load_evaluation(folder, share)
    if (folder / "metrics.jsonl").is_file() or kept.files(folder / "rollouts"):
        return load_run(folder, steps, share)
    what = "is no folder" if not folder.is_dir() else "holds no metrics.jsonl or generations.jsonl"
    raise Refused(
        f"{folder} {what}: give the folder of a run (runs/NAME) or of an evaluation (evals/NAME)"
    )


def _if_there(path):
    return read_json(path) if path.is_file() else {}


# --- runs ---

MAX_TOKENS = 600_000  # on a page: 9 MB
SHOWN = ("recipe", "model", "data", "learning_rate", "prompts_per_step", "samples_per_prompt")


def load_run(folder: Path, steps: range | None, share: float) -> Source:
    """A run's curves, and as many of its kept rollouts as fit on a page."""
    config = _if_there(folder / "config.json")
    rows = []
    with suppress(Refused):  # it has no step yet
        rows = read_metrics(folder)
    names = dict.fromkeys(key for row in rows for key in row if is_number(row[key]))
    source = Source(
        name=folder.resolve().name,
        kind="run",
        about={name: str(config[name]) for name in SHOWN if name in config},
        groups=[],
        steps=[row["step"] for row in rows],
        curves={
            name: [row[name] if is_number(row.get(name)) else None for row in rows]
            for name in names
        },
        resets=sorted(resets([rows])),
        clip=(config.get("clip_low", 0.2), config.get("clip_high", 0.2)),
    )
    files = kept.files(folder / "rollouts")
    if steps is not None:
        files = {key: path for key, path in files.items() if key[1] in steps}
    pieces, chosen = _pieces(folder, config), _fitting(files, MAX_TOKENS * share)
    for key in chosen:
        source.groups += _groups(key[0], kept.read(files[key]), pieces)
    if len(chosen) < len(files):
        source.left_out = (
            f"{len(files) - len(chosen)} of {len(files)} files of rollouts do not fit on one page; "
            f"--steps FIRST:LAST shows a stretch of the run whole"
        )
    return source


def _fitting(files: dict, room: float) -> list:
    """The files to show: all that fit on a page, evenly spread, with the first and the last."""
    keys = list(files)
    tokens = sum(kept.count_tokens(path) for path in files.values())
    wanted = max(2, int(len(keys) * room / max(1, tokens)))
    if wanted >= len(keys):
        return keys
    return [keys[i * (len(keys) - 1) // (wanted - 1)] for i in range(wanted)]


def _pieces(folder: Path, config: dict) -> Pieces | None:
    """With the tokenizer of the newest checkpoint, or else that of the run's first model.

    None if there is neither, for example because the model's folder has moved.
    """
    for place in [*map(str, checkpoints(folder)[::-1]), config.get("model", "")]:
        with suppress(ValueError, OSError):
            return Pieces(load_tokenizer(model_folder(place)))
    return None


def _groups(kind: str, rows: list[dict], pieces: Pieces | None) -> list[Group]:
    groups = []
    for place, own in groupby(rows, key=itemgetter("place")):
        own = list(own)
        first = own[0]
        texts, verify = [row["text"] for row in own], json.loads(first["verify"] or "null")
        graded = zip(own, *verdicts(texts, first["answer"], verify), strict=True)
        group = Group(
            kind="train" if kind == "step" else "held_out",
            step=first["step"],
            place=place,
            problem=first["problem"],
            gold=first["answer"],
            task=first["task"] or "",
            solved=first["solved"],
            prompt=pieces.decode(first["prompt_ids"]) if pieces else "",
            answers=[_answer(row, robust, strict, pieces) for row, robust, strict in graded],
        )
        groups.append(group)
    return groups


def _answer(row: dict, robust: bool, strict: bool, pieces: Pieces | None) -> Answer:
    ids, names = row["response_ids"], ("sample", "text", "truncated", "reward", "advantage")
    return Answer(
        **{name: row[name] for name in (*names, "minibatch")},
        robust=robust,
        strict=strict,
        length=len(ids),
        pieces=pieces and pieces.split(ids),
        special=[i in pieces.special for i in ids] if pieces else [],
        columns={name: np.array(row[name]) for name in kept.TOKEN_COLUMNS if row[name] is not None},
    )


# --- evaluations ---

MAX_CHARACTERS = 12_000_000  # on a page: about 5 MB


def load_evaluation(folder: Path, share: float) -> Source:
    """An evaluation, with as many answers as fit on a page; disputed ones are kept first."""
    result = _if_there(folder / "eval.json")
    settings = result.get("settings") or _if_there(folder / "settings.json")
    records = read_answers(folder)
    labels = list(dict.fromkeys(benchmark for benchmark, _ in records))
    groups = [_benchmark_group(labels.index(key[0]), records[key]) for key in records]
    shown = ("model", "protocol", "temperature", "top_p", "max_tokens", "seed")
    return Source(
        name=str(result.get("name") or folder.resolve().name),
        kind="evaluation",
        about={name: str(settings[name]) for name in shown if name in settings},
        groups=groups,
        labels=labels,
        left_out=_shorten(groups, MAX_CHARACTERS * share),
    )


def _benchmark_group(number: int, record: dict) -> Group:
    robust, strict = verdicts(graded_texts(record), record["answer"], record["verify"])
    answers = [
        Answer(i, one["text"], bool(one["truncated"]), one["tokens"], robust[i], strict[i])
        for i, one in enumerate(record["answers"])
    ]
    n, c = len(answers), sum(robust)
    rates = [f"@{k} {pass_at_k(n, c, k):.3g}" for k in powers(n)]
    return Group(
        kind="benchmark",
        step=number,
        place=record["index"],
        problem=record["text"],
        gold=record["answer"],
        task=record["task"] or "",
        solved=c / n,
        prompt="",
        answers=answers,
        facts=[f"{c} of {n} right, {sum(strict)} to the letter", f"pass {'  '.join(rates)}"],
    )


def _shorten(groups: list[Group], room: float) -> str:
    """Drop answers that do not fit: an equal share of every problem's, disputed ones last."""
    total = sum(len(group.answers) for group in groups)
    share = room / max(1, sum(len(answer.text) for group in groups for answer in group.answers))
    if share >= 1:
        return ""
    for group in groups:
        disputed_first = sorted(group.answers, key=lambda answer: answer.strict == answer.robust)
        shown = disputed_first[: max(1, int(share * len(group.answers)))]
        group.answers = sorted(shown, key=lambda answer: answer.sample)
    left = total - sum(len(group.answers) for group in groups)
    return f"{left:,} of {total:,} answers do not fit on one page"
