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
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from trainer.data import Problem, Rollout
from trainer.policy.policy import MicroBatch, loss_weights
from trainer.run.metrics import token_ratio_metrics

HELD_OUT = 2  # held-out problems kept for each training group of a step ...
ANSWERS = 4  # ... and answers to each, so that a few can be followed through training

TOKEN_COLUMNS = {
    "logps": pa.float16(),
    "entropy": pa.float16(),
    "log_ratio": pa.float16(),
    "clipped": pa.int8(),
    "gap": pa.float16(),
    "weights": pa.float32(),
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
        *((name, pa.list_(kind)) for name, kind in TOKEN_COLUMNS.items()),
    ]
)


# --- which ---


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
    chosen = [0] if groups else []
    while any(piles.values()):
        chosen += [pile.pop(0) for pile in piles.values() if pile]
    return sorted(chosen[: int(keep)])


def kind_of(group: list[Rollout]) -> str:
    """mixed: the rewards differ, so the group teaches. Else solved or failed."""
    if len({rollout.reward for rollout in group}) > 1:
        return "mixed"
    return "solved" if sum(rollout.right for rollout in group) > len(group) / 2 else "failed"


def choose_held_out(count: int, keep: str) -> list[int]:
    """The places of the held-out problems to keep: evenly spread, the same at every evaluation."""
    wanted = count if keep == "all" else min(count, HELD_OUT * int(keep))
    return [i * count // wanted for i in range(wanted)]


# --- what of each token ---


def token_values(
    groups: list[list[Rollout]],
    kept: list[int],
    minibatches: list[list[MicroBatch]],
    clip: tuple[float, ...],
    tis_cap: float,
) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """{(group, sample): its columns per token} of the kept groups, from this rank's micro-batches.

    clip: as in step_metrics. A micro-batch's columns leave the device in one copy.
    """
    places = {rollout: (p, g) for p in kept for g, rollout in enumerate(groups[p])}
    raw = any(micro.raw_logps_M is not None for micro in chain(*minibatches))
    values = {}
    for number, minibatch in enumerate(minibatches):
        for micro in minibatch:
            if places.keys().isdisjoint(micro.rollouts):
                continue
            columns = _columns(micro, clip, tis_cap, raw)
            table = torch.stack([value_M.float() for value_M in columns.values()]).cpu().numpy()
            ends = np.cumsum([len(rollout.response_ids) for rollout in micro.rollouts])
            for rollout, piece in zip(micro.rollouts, np.split(table, ends[:-1], 1), strict=True):
                if rollout in places:
                    piece = dict(zip(columns, piece, strict=True))
                    values[places[rollout]] = piece | {"minibatch": number}
    return values


@torch.no_grad()
def _columns(
    micro: MicroBatch, clip: tuple[float, ...], tis_cap: float, raw: bool
) -> dict[str, torch.Tensor]:
    """The columns that the module's docstring explains, each [M].

    raw: the engine's log-probs are raw, so the gap is known only where the trainer's raw ones are.
    """
    low, high, *dual = clip
    ratios = token_ratio_metrics(micro, low, high)
    log_ratio_M = micro.new_logps_M - micro.old_logps_M
    clipped_M = ratios["clip_fraction_high"] - ratios["clip_fraction_low"]
    for cap in dual:
        clipped_M -= ((micro.advantages_M < 0) & (log_ratio_M.exp() > cap)).float()
    trainer_logps_M = micro.raw_logps_M if raw else micro.old_logps_M
    gap = {}
    if trainer_logps_M is not None:
        gap["gap"] = trainer_logps_M - micro.engine_logps_M
    return {
        **gap,
        "logps": micro.old_logps_M,
        "entropy": micro.entropy_M,
        "log_ratio": log_ratio_M,
        "clipped": clipped_M,
        "weights": loss_weights(micro, tis_cap),
    }


def gather_values(values: dict) -> dict:
    """The values of all ranks, on rank 0; others get an empty dict. Call it on every rank."""
    if dist.get_world_size() == 1:
        return values
    parts = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(values, parts)
    return dict(chain.from_iterable(part.items() for part in parts or []))


# --- files ---


def rows_of(
    step: int,
    place: int,
    problem: Problem,
    group: list[Rollout],
    advantages_G: list[float] | None = None,
    values: dict | None = None,
    answers: int | None = None,
) -> list[dict]:
    """One row for each answer of a group, the first `answers` if given.

    values: from token_values. Without them (held-out problems) there are the engine's log-probs.
    """
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
            "advantage": None if advantages_G is None else advantages_G[g],
            "truncated": bool(rollout.truncated),
            "prompt_ids": rollout.prompt_ids,
            "response_ids": rollout.response_ids,
            **({"logps": rollout.logps} if values is None else values.get((place, g), {})),
        }
        for g, rollout in enumerate(group[:answers])
    ]


def write(folder: Path, name: str, rows: list[dict]) -> None:
    """Write rows to FOLDER/NAME.parquet, whole or not at all. Raises OSError on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{name}.parquet.tmp"
    kinds = {field.name: field.type for field in SCHEMA}
    rows = [{key: _storable(value, kinds[key]) for key, value in row.items()} for row in rows]
    table = pa.Table.from_pylist(rows, SCHEMA)
    pq.write_table(table, aside, compression="zstd", use_dictionary=False)
    os.replace(aside, folder / f"{name}.parquet")


def _storable(value, kind: pa.DataType):
    if isinstance(value, np.ndarray):
        if kind.value_type == pa.float16():  # -inf would break the page: a half ends at -65,504
            value = np.clip(value, np.finfo(np.float16).min, np.finfo(np.float16).max)
        return value.astype(kind.value_type.to_pandas_dtype())
    return value


def files(folder: Path) -> dict[tuple[str, int], Path]:
    """{("step" or "eval", step): file} of a run's rollouts folder, by step."""
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        if name := re.fullmatch(r"(step|eval)_(\d+)", path.stem):
            found[name[1], int(name[2])] = path
    return dict(sorted(found.items(), key=lambda item: (item[0][1], item[0][0])))


def read(path: Path) -> list[dict]:
    """The rows of one file; None where a column is missing."""
    return pq.read_table(path).to_pylist()


def forget_after(folder: Path, step: int) -> None:
    """Delete the files of later steps, and what a kill has left half-written."""
    for (_, number), path in files(folder).items():
        if number > step:
            path.unlink()
    for torn in folder.glob("*.parquet.tmp"):
        torn.unlink()


def count_tokens(path: Path) -> int:
    """How many response tokens a file holds, without reading them."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(c.num_values for c in columns if c.path_in_schema.startswith("response_ids."))
