"""The techniques of JustRL's Table 1 that its loop leaves out, each as one small function.

lab/table1.py calls them. The letters are the table's columns:

    EC   entropy control        nothing to do here: --entropy_coef (JustRL has --clip_high)
    THP  tuned hyperparameters  read_stages: a stage is a set of flags
    TTP  tuned training prompt  nothing to do here: --instruction
    RKL  reset of the KL reference    nothing to do here: prorl.hard_reset
    LC   length control         shape_reward; read_stages with a --max_response_tokens each
    AT   adaptive temperature   read_stages with a --temperature each, as in POLARIS's scripts
    RR   rollout rescue         not built: POLARIS's post has it, its code has not
    DS   dynamic sampling       substituted_groups, enter_stage (and prorl.mixed_groups)
    ST   split into stages      read_stages, enter_stage, stage_problems, with_hints

Everything that a later step depends on is in `state`, which a checkpoint holds, and random choices
are functions of the seed, the step and `state`. So a resumed run equals an unbroken one.
"""

import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import get_args

import torch

import losses
from prorl import mixed_groups
from trainer.data import Order, Problem, Rollout, Sampling
from trainer.errors import Refused
from trainer.policy.policy import MicroBatch
from trainer.run.flags import FREE, Flags
from trainer.run.metrics import rollout_metrics
from trainer.run.run import Run

# --- ST, THP: stages, each a set of flags "until step N" ---

# Fixed for a whole run: what is built before the first step, or compared over all of it.
FIXED = FREE | {field.name for field in fields(Flags)}
FIXED |= {"model", "data", "eval_data", "instruction", "seed", "row", "stages", "token_budget"}
FIXED |= {"max_prompt_tokens", "weight_decay"}
FIXED |= {"eval_every", "eval_samples", "eval_temperature", "eval_top_p", "eval_max_tokens"}


@dataclass(frozen=True)
class Stage:
    """Steps up to `until` train with this config. The last stage lasts as long as the run."""

    until: int
    config: object


def read_stages(config) -> list[Stage]:
    """The stages of config.stages; without any, one that lasts for the whole run.

    Raises Refused for what is no list of sets of flags, a flag that does not exist or is fixed for
    a whole run, a value that the flag refuses, and ends that do not grow.
    """
    try:
        rows = json.loads(config.stages or "[{}]")
    except json.JSONDecodeError as error:
        raise Refused(f'--stages takes JSON, such as [{{"until": 9}}, {{}}]: {error}') from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise Refused("--stages must be a list of one set of flags a stage, such as [{}, {}]")
    stages, first = [], 1
    for number, row in enumerate(rows, 1):
        until = row.get("until", None if number < len(rows) else max(first, config.steps))
        if type(until) is not int or until < first:
            raise Refused(
                f'stage {number} of --stages needs an "until", a step of at least {first}'
            )
        stages.append(Stage(until, stage_config(config, number, row)))
        first = until + 1
    return stages


def stage_config(config, number: int, row: dict):
    """config with a stage's flags. Raises Refused as read_stages does."""
    known = {field.name: field.type for field in fields(config)}
    values = {name: value for name, value in row.items() if name != "until"}
    for name, value in values.items():
        if name not in known or name in FIXED:
            why = "is fixed for the whole run" if name in known else "does not exist"
            raise Refused(f"stage {number} of --stages sets {name!r}, which {why}")
        kind, choices = type(getattr(config, name)), get_args(known[name])
        if kind is float and type(value) is int:
            values[name] = value = float(value)
        if type(value) is not kind or (choices and value not in choices):
            what = f"one of {', '.join(choices)}" if choices else f"a {kind.__name__}"
            raise Refused(f"stage {number} of --stages: --{name} takes {what}, not {value!r}")
    changed = replace(config, **values)
    if fault := changed.fault():
        raise Refused(f"stage {number} of --stages: {fault}")
    return changed


def stage_at(stages: list[Stage], step: int) -> Stage:
    return next((stage for stage in stages if step <= stage.until), stages[-1])


def stage_problems(problems: list[Problem], config, state: dict) -> list[Problem]:
    """A share of the problems by length of prompt (FastCuRL), without those too easy (POLARIS).

    --prompts_from and --prompts_to cut the share; the shortest prompts come first.
    """
    order = sorted(range(len(problems)), key=lambda i: len(problems[i].prompt_ids))
    low, high = (round(len(order) * share) for share in (config.prompts_from, config.prompts_to))
    dropped = set(state["dropped"])
    kept = [problems[i] for i in sorted(order[low:high]) if problems[i].text not in dropped]
    if not kept:
        raise Refused(
            "no problem is left for this stage: lower --prompts_from, or raise --prompts_to or "
            "--drop_above"
        )
    return kept


def enter_stage(
    stages: list[Stage], problems: list[Problem], state: dict, step: int, *, encode: Callable
) -> tuple[list[Problem], Order]:
    """The problems that a step's stage trains on, and their order. encode makes prompts with hints.

    When the stage begins, it also drops the problems whose last group in the stage before was right
    more often than the --drop_above of that stage.
    """
    stage = stage_at(stages, step)
    number, config = stages.index(stage) + 1, stage.config
    if state["stage"] != number:
        limit = stages[max(0, number - 2)].config.drop_above
        easy = {text for text, share in state["success"].items() if share > limit}
        state["dropped"] = sorted(easy.union(state["dropped"]))
        state |= {"success": {}, "stage": number}
    pool = stage_problems(problems, config, state)
    if config.hint_share:
        pool = encode(with_hints(pool, config))
    return pool, Order(len(pool), config.seed)


# --- ST: hints from reference solutions (QuestA) ---

HINT = "\n\n## Hint."


def with_hints(problems: list[Problem], config) -> list[Problem]:
    """Each problem with the first --hint_share of the characters of its solution.

    The hint ends the prompt, or begins the answer with --hint_prefill. A hint of fewer than
    --hint_shortest characters is left out. Raises Refused if no problem gets a hint.
    """
    hinted = []
    for problem in problems:
        solution = problem.solution or chain_solution(problem.text)
        hint = solution[: int(len(solution) * config.hint_share)]
        if len(hint) < config.hint_shortest:
            hinted.append(problem)
        elif config.hint_prefill:
            hinted.append(replace(problem, prefill=hint))
        else:
            hinted.append(replace(problem, text=problem.text + HINT + hint))
    if hinted == problems:
        raise Refused(
            f"--hint_share {config.hint_share} needs solutions to take hints from, and no problem "
            f"has one that is long enough"
        )
    return hinted


def chain_solution(text: str) -> str:
    r"""The solution of a chain of the embedded world, "3+5-2=?" -> "8-2\n6\n"; else ""."""
    if not re.fullmatch(r"\d+([+-]\d+)+=\?", text):
        return ""
    terms, lines = [int(term) for term in re.findall(r"[+-]?\d+", text)], []
    while len(terms) > 1:
        terms = [terms[0] + terms[1], *terms[2:]]
        lines.append(str(terms[0]) + "".join(f"{term:+d}" for term in terms[1:]))
    return "\n".join(lines) + "\n"


# --- LC: length control by reward ---


def shape_reward(rollout: Rollout, config, step: int) -> float:
    """A response's reward after ProRL v2's two measures against length.

    "Stop properly" multiplies that of a truncated one by --truncated_scale. The other adds
    --cosine_weight times a cosine from --cosine_max at length 0 to --cosine_min at the limit, in
    cycles of --cosine_on and --cosine_off steps.
    """
    reward = rollout.reward * (config.truncated_scale if rollout.truncated else 1.0)
    cycle = config.cosine_on + config.cosine_off
    if config.cosine_weight and (not cycle or (step - 1) % cycle < config.cosine_on):
        share = len(rollout.response_ids) / config.max_response_tokens
        fall = (1 + math.cos(math.pi * share)) / 2  # from 1 at length 0 to 0 at the limit
        value = config.cosine_min + (config.cosine_max - config.cosine_min) * fall
        reward += config.cosine_weight * value
    return reward


# --- DS: dynamic sampling; a batch with what was drawn for it ---


def draw_groups(
    sample: Callable, batch: list[Problem], state: dict, run: Run, step: int, first: int = 0
) -> list[list[Rollout]]:
    """Sample a group for each problem of a batch, count the tokens, and shape the rewards.

    sample: that of lab/table1.py. first: how many groups earlier rounds of this step have sampled.
    """
    config = run.config
    sampling = Sampling(config.max_response_tokens, config.temperature)
    groups = sample(batch, config.samples_per_prompt, sampling, step, first)
    state["tokens"] += rollout_metrics(groups)["tokens"]
    for rollout in chain(*groups):
        rollout.reward = shape_reward(rollout, config, step)
    if config.drop_above < 1:
        for problem, group in zip(batch, groups, strict=True):
            state["success"][problem.text] = sum(r.right for r in group) / len(group)
    return groups


def next_batch(draw: Callable, problems: list[Problem], order: Order, state: dict, run: Run):
    """JustRL's batch: no group is dropped or replaced, whatever its rewards."""
    places = order[state["position"] : state["position"] + run.config.prompts_per_step]
    state["position"] += len(places)
    batch = [problems[i] for i in places]
    return batch, draw(batch), {}


def substituted_groups(
    draw: Callable, problems: list[Problem], order: Order, state: dict, run: Run
) -> tuple[list[Problem], list[list[Rollout]], dict]:
    """POLARIS's batch: every group of equal rewards is replaced by a random mixed one.

    None is repeated before all have been used. If a third or less is mixed, the next batch is
    sampled instead, at most --max_rounds times; then the step trains on the batch as it is.
    Arguments and results are those of prorl.mixed_groups.
    """
    count, mixed, everything = run.config.prompts_per_step, [], []
    rng = random.Random(f"substitute/{run.config.seed}/{state['position']}")
    while 3 * len(mixed) <= count and len(everything) < count * run.config.max_rounds:
        places = order[state["position"] : state["position"] + count]
        state["position"] += count
        batch = [problems[i] for i in places]
        groups = draw(batch, first=len(everything))
        everything += groups
        mixed = [p for p, group in enumerate(groups) if len({r.reward for r in group}) > 1]
    chosen = list(range(count))
    if 3 * len(mixed) > count:
        bad = [p for p in chosen if p not in mixed]
        for place, p in enumerate(bad):
            if place % len(mixed) == 0:
                good = sorted(mixed, key=lambda _: rng.random())
            chosen[p] = good[place % len(mixed)]
    metrics = {"sampled_groups": len(everything), "mixed_groups": len(mixed)}
    batch = [batch[p] for p in chosen]
    groups = [[replace(rollout) for rollout in groups[p]] for p in chosen]  # no group twice
    return batch, groups, rollout_metrics(everything) | metrics


BATCHES = {"off": next_batch, "resample": mixed_groups, "substitute": substituted_groups}


# --- (6) and (9): advantages and weights ---

ADVANTAGES = ("grpo", "lite", "reinforce++", "tokens")


def advantages(rewards_P_G: torch.Tensor, groups: list[list[Rollout]], config) -> torch.Tensor:
    """The advantages that --advantage names, [P, G]."""
    if config.advantage in ("reinforce++", "tokens"):
        lengths_P_G = torch.tensor([[len(r.response_ids) for r in group] for group in groups])
        if config.advantage == "reinforce++":
            rewards_P_G = losses.advantages(rewards_P_G, center="group", scale="none")
        return normalize_over_tokens(rewards_P_G, lengths_P_G)
    scale = "batch" if config.advantage == "lite" else "group"
    return losses.advantages(rewards_P_G, center="group", scale=scale)


def normalize_over_tokens(advantages_P_G: torch.Tensor, lengths_P_G: torch.Tensor) -> torch.Tensor:
    """Shift and scale advantages to mean 0 and variance 1 over all *tokens* of the batch.

        A <- (A - mean) / sqrt(max(variance, 1e-8))        with the biased variance

    REINFORCE++-baseline (ProRL v2) does this to A = reward - group mean. Both arguments: [P, G];
    lengths in tokens. Returns float32 [P, G], all zeros where there is no token.
    """
    weights_P_G = lengths_P_G.double() / lengths_P_G.sum().clamp(min=1)
    centered_P_G = advantages_P_G - (weights_P_G * advantages_P_G).sum()
    variance = (weights_P_G * centered_P_G.square()).sum()
    scaled_P_G = centered_P_G / variance.clamp(min=1e-8).sqrt()
    return torch.where(weights_P_G.sum() > 0, scaled_P_G, 0.0).float()


def icepop_importance(micro: MicroBatch, config) -> torch.Tensor:
    """IcePop's importance weight of each token, without gradient.

    It is pi_trainer / pi_engine where that is in [--icepop_low, --icepop_high], else 0.
    """
    ratio_M = losses.truncated_importance(micro.old_logps_M, micro.engine_logps_M, cap=math.inf)
    kept_M = (ratio_M >= config.icepop_low) & (ratio_M <= config.icepop_high)
    return torch.where(kept_M, ratio_M, 0.0)
