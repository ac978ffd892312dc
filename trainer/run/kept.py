"""The rollouts that a run keeps for readers: which groups, which numbers per token, the files.

    OUT/rollouts/step_000012.parquet    a few groups of step 12, one row per answer
    OUT/rollouts/eval_000010.parquet    answers to a few held-out problems at step 10's evaluation

A file is written under another name and renamed when it is complete. A resumed run deletes the
files after its checkpoint and writes them again. Any parquet reader opens them, for example
`datasets.load_dataset("parquet", data_files="OUT/rollouts/step_*.parquet")`.

Numbers per token are half-precision floats (three digits), in nats:

    logps       the trainer's log-prob under the policy that sampled, at the sampling temperature
    entropy     of the distribution that the token was drawn from
    log_ratio   log-prob in the token's own update pass minus `logps`: what earlier mini-batches of
                this step changed. Always 0 in the first
    clipped     by the ratio of the token: +1 if the clip removed the gradient of a token with a
                positive advantage, -1 with a negative one (dual clip included), else 0
    gap         the trainer's log-prob minus the engine's, both of the same distribution; missing if
                the engine reports raw log-probs and the recipe computes none to compare
    weights     of the token in the loss of its mini-batch (float32), importance weight included

Answers to held-out problems have one such column, `logps`, and there it is the engine's.
"""

import json
import os
import re
from contextlib import contextmanager
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from trainer.data import Problem, Rollout
from trainer.errors import Refused
from trainer.policy.policy import MicroBatch, loss_weights
from trainer.ranks import from_all_ranks
from trainer.run.metrics import engine_gaps, token_ratio_metrics

HELD_OUT = 2  # held-out problems kept for each training group of a step ...
ANSWERS = 4  # ... and answers to each, so that a few can be followed through training

TOKEN_COLUMNS = {
    "logps": np.float16,
    "entropy": np.float16,
    "log_ratio": np.float16,
    "clipped": np.int8,
    "gap": np.float16,
    "weights": np.float32,
}
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("place", pa.int32()),  # of the problem in the batch, or in the held-out list
        ("sample", pa.int32()),  # of the answer in its group
        ("problem", pa.string()),
        ("answer", pa.string()),  # the gold
        ("task", pa.string()),
        ("verify", pa.string()),  # JSON, where a problem brings a verifier of its own
        ("solved", pa.float32()),  # mean verdict of the whole group, kept or not
        ("text", pa.string()),
        ("right", pa.float32()),  # the verdict in training
        ("reward", pa.float32()),
        ("advantage", pa.float32()),
        ("truncated", pa.bool_()),
        ("minibatch", pa.int16()),  # in which of the step's updates it took part
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        *((name, pa.list_(pa.from_numpy_dtype(kind))) for name, kind in TOKEN_COLUMNS.items()),
    ]
)


# --- which groups ---


def choose(groups: list[list[Rollout]], keep: str) -> list[int]:
    """The places of the groups to keep: "all", or a number of them, in order.

    First the first group of the batch: a fair sample, which two runs over the same data share. Then
    in turn the next group with mixed rewards, the next without a right answer, and the next with
    only right answers.
    """
    if keep == "all":
        return list(range(len(groups)))
    piles = {"mixed": [], "failed": [], "solved": []}
    for place, group in enumerate(groups[1:], 1):
        piles[kind_of(group)].append(place)
    in_turn = filter(None, chain(*zip_longest(*piles.values())))
    return sorted([0, *in_turn][: int(keep)])


def kind_of(group: list[Rollout]) -> str:
    """mixed: the rewards differ, so the group teaches. Else solved or failed."""
    if len({rollout.reward for rollout in group}) > 1:
        return "mixed"
    return "solved" if sum(rollout.right for rollout in group) > len(group) / 2 else "failed"


def choose_held_out(count: int, keep: str) -> list[int]:
    """The places of the held-out problems to keep: evenly spread, the same at every evaluation."""
    wanted = count if keep == "all" else min(count, HELD_OUT * int(keep))
    return [i * count // wanted for i in range(wanted)]


# --- numbers per token ---


def token_values(
    groups: list[list[Rollout]],
    kept: list[int],
    minibatches: list[list[MicroBatch]],
    clip: tuple[float, ...],
    tis_cap: float,
) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """{(group, sample): its columns per token} of the kept groups, from all ranks' micro-batches.

    clip: as in step_metrics. A micro-batch's columns leave the device in one copy.
    """
    places = {rollout: (p, g) for p in kept for g, rollout in enumerate(groups[p])}
    micros = [(number, micro) for number, some in enumerate(minibatches) for micro in some]
    gaps = engine_gaps([micro for _, micro in micros])
    values = {}
    for (number, micro), gap_M in zip(micros, gaps, strict=True):
        if places.keys().isdisjoint(micro.rollouts):
            continue
        columns = _columns(micro, gap_M, clip, tis_cap)
        lengths = [len(rollout.response_ids) for rollout in micro.rollouts]
        pieces = torch.stack(list(columns.values())).detach().cpu().split(lengths, dim=1)
        for rollout, piece in zip(micro.rollouts, pieces, strict=True):
            if rollout in places:
                piece = stored(dict(zip(columns, piece.numpy(), strict=True)))
                values[places[rollout]] = piece | {"minibatch": number}
    return dict(chain.from_iterable(part.items() for part in from_all_ranks(values)))


def _columns(
    micro: MicroBatch, gap_M: torch.Tensor | None, clip: tuple[float, ...], tis_cap: float
) -> dict[str, torch.Tensor]:
    """The columns that the module's docstring explains, each [M]; no gap if it is unknown."""
    low, high, *dual = clip
    ratios = token_ratio_metrics(micro, low, high)
    log_ratio_M = micro.new_logps_M - micro.old_logps_M
    clipped_M = ratios["clip_fraction_high"] - ratios["clip_fraction_low"]
    for cap in filter(None, dual):
        clipped_M -= ((micro.advantages_M < 0) & (log_ratio_M.exp() > cap)).float()
    columns = {
        "logps": micro.old_logps_M,
        "entropy": micro.entropy_M,
        "log_ratio": log_ratio_M,
        "clipped": clipped_M,
        "gap": gap_M,
        "weights": loss_weights(micro, tis_cap),
    }
    return {name: value_M for name, value_M in columns.items() if value_M is not None}


def stored(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns per token as a file holds them, within a half's range: -inf would break the page."""
    return {
        name: np.clip(values, -65504, 65504).astype(TOKEN_COLUMNS[name])
        for name, values in columns.items()
    }


# --- files ---


def rows_of(
    step: int, place: int, problem: Problem, group: list[Rollout], more: list[dict]
) -> list[dict]:
    """One row for each of a group's first answers. more: the other columns of each."""
    return [
        {
            "step": step,
            "place": place,
            "sample": g,
            "problem": problem.text,
            "answer": problem.answer,
            "task": problem.task,
            "verify": json.dumps(problem.verify) if problem.verify else None,
            "solved": sum(member.right for member in group) / len(group),
            "text": rollout.text,
            "right": rollout.right,
            "reward": rollout.reward,
            "truncated": bool(rollout.truncated),
            "prompt_ids": rollout.prompt_ids,
            "response_ids": rollout.response_ids,
            **columns,
        }
        for g, (rollout, columns) in enumerate(zip(group, more, strict=False))
    ]


def write(folder: Path, name: str, rows: list[dict]) -> None:
    """Write rows to FOLDER/NAME.parquet, whole or not at all. Raises OSError on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{name}.parquet.tmp"
    table = pa.Table.from_pylist(rows, SCHEMA)
    pq.write_table(table, aside, compression="zstd", use_dictionary=False)
    os.replace(aside, folder / f"{name}.parquet")


def files(folder: Path) -> dict[tuple[str, int], Path]:
    """{("step" or "eval", step): file} of a run's rollouts folder, by step."""
    paths = folder.glob("*.parquet")
    named = ((re.fullmatch(r"(step|eval)_(\d+)", path.stem), path) for path in paths)
    found = sorted((int(name[2]), name[1], path) for name, path in named if name)
    return {(kind, step): path for step, kind, path in found}


@contextmanager
def _opened(path):
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except pa.ArrowException as error:
        raise Refused(f"{path} is damaged ({error}): delete it") from error


def read(path: Path) -> list[dict]:
    """The rows of one file; None where a column is missing. Raises Refused if it is damaged."""
    with _opened(path) as file:
        return file.read().to_pylist()


def forget_after(folder: Path, step: int) -> None:
    """Delete the files of later steps, and what a kill has left half-written."""
    for (_, number), path in files(folder).items():
        if number > step:
            path.unlink()
    for torn in folder.glob("*.parquet.tmp"):
        torn.unlink()


def count_tokens(path: Path) -> int:
    """How many response tokens a file holds, without reading them."""
    with _opened(path) as file:
        metadata = file.metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(c.num_values for c in columns if c.path_in_schema.startswith("response_ids."))
