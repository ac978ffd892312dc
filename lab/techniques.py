"""The techniques of JustRL's Table 1 that its loop leaves out, each as one small function.

lab/table1.py calls them. The letters are the table's columns:

    EC   entropy control        entropy_coefficient, adapt_entropy (JustRL has --clip_high)
    THP  tuned hyperparameters  read_stages: a stage is a set of flags
    TTP  tuned training prompt  nothing to do here: --instruction
    RKL  reset of the KL reference    nothing to do here: prorl.hard_reset
    LC   length control         shape_reward; read_stages with a --max_response_tokens each
    AT   adaptive temperature   adapt_temperature, diversity
    RR   rollout rescue         rescue
    DS   dynamic sampling       substituted_groups, enter_stage (and prorl.mixed_groups)
    ST   split into stages      read_stages, enter_stage, stage_problems, with_hints

Everything that a later step depends on is in `state`, which a checkpoint holds, and random choices
are functions of the seed, the step and `state`. So a resumed run equals an unbroken one.
"""

import base64
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import get_args

import numpy as np
import torch

import losses
from prorl import mixed_groups
from tiny import arithmetic
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
        raise Refused(f'--stages is no JSON (for a file, give "$(cat FILE)"): {error}') from error
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


def stages_fault(config) -> str | None:
    """What is wrong with config.stages, as a sentence; None if nothing is."""
    try:
        read_stages(config)
    except Refused as error:
        return str(error)
    return None


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
    changed = replace(config, **values | {"stages": ""})
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
    stages: list[Stage], problems: list[Problem], state: dict, step: int, *, encode, sample
) -> tuple[list[Problem], Order]:
    """The problems that a step's stage trains on, and their order. encode makes prompts with hints.

    When the stage begins, it also sets state["temperature"], and drops the problems whose last
    group in the stage before was right more often than the --drop_above of that stage.
    """
    stage = stage_at(stages, step)
    number, config = stages.index(stage) + 1, stage.config
    begins = state["stage"] != number
    if begins:
        limit = stages[max(0, number - 2)].config.drop_above
        easy = {text for text, share in state["success"].items() if share > limit}
        state["dropped"] = sorted(easy.union(state["dropped"]))
        state |= {"success": {}, "stage": number}
    pool = stage_problems(problems, config, state)
    if config.hint_share:
        pool = encode(with_hints(pool, config))
    order = Order(len(pool), config.seed)
    if begins and config.adaptive_temperature:
        start = state["position"]
        batch = [pool[i] for i in order[start : start + config.prompts_per_step]]
        adapt_temperature(sample, batch, state, config, step)
    elif begins:
        state["temperature"] = config.temperature
    return pool, order


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
    chain = [(op or "+", int(n)) for op, n in re.findall(r"([+-]?)(\d+)", text)]
    style = replace(arithmetic.ALIGNED, slip=0.0)  # no step goes wrong
    return arithmetic.work(chain, style, "\n", random.Random())[0]


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


# --- RR: rollout rescue (POLARIS) ---


def packed(array: np.ndarray) -> str:
    """An array of ids (int32) or log-probs (float32) as text for JSON, exact and compact."""
    return base64.b64encode(array.tobytes()).decode()


def remember(problem: Problem, group: list[Rollout], state: dict) -> None:
    """Keep the first right response of a group, in the place of the problem's earlier one."""
    if right := next((rollout for rollout in group if rollout.right == 1.0), None):
        state["rescue"][problem.text] = {
            "response_ids": packed(right.response_ids),
            "logps": packed(right.logps),
            "truncated": bool(right.truncated),
            "text": right.text,
            "reward": right.reward,
        }


def rescue(problem: Problem, group: list[Rollout], state: dict, rng: random.Random) -> None:
    """If all responses of a group failed, replace one of them by the stored right one.

    Nothing corrects for its being off-policy. Its engine log-probs are those of the step that
    sampled it, so the step's log-prob gap is a little larger.
    """
    stored = state["rescue"].get(problem.text)
    if not stored or any(rollout.right for rollout in group):
        return
    state["rescued"] += 1
    arrays = {
        name: np.frombuffer(base64.b64decode(stored[name]), kind).copy()
        for name, kind in (("response_ids", np.int32), ("logps", np.float32))
    }
    prompt_ids = group[0].prompt_ids
    group[int(rng.random() * len(group))] = Rollout(prompt_ids, right=1.0, **stored | arrays)


# --- DS: dynamic sampling; a batch with what was drawn for it ---


def draw_groups(
    sample: Callable, batch: list[Problem], state: dict, run: Run, step: int, first: int = 0
) -> list[list[Rollout]]:
    """Sample a group for each problem of a batch, count the tokens, and rescue failed groups.

    sample: that of lab/table1.py. first: how many groups earlier rounds of this step have sampled.
    """
    config = run.config
    sampling = Sampling(config.max_response_tokens, config.temperature)
    groups = sample(batch, config.samples_per_prompt, sampling, step, first)
    state["tokens"] += rollout_metrics(groups)["tokens"]
    for rollout in chain(*groups):
        rollout.reward = shape_reward(rollout, config, step)
    for place, (problem, group) in enumerate(zip(batch, groups, strict=True)):
        if config.drop_above < 1:
            state["success"][problem.text] = sum(r.right for r in group) / len(group)
        if config.rollout_rescue:
            rng = random.Random(f"rescue/{config.seed}/{step}/{first + place}")
            rescue(problem, group, state, rng)
            remember(problem, group, state)
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
    chosen, good = list(range(count)), []
    for p in range(count) if 3 * len(mixed) > count else ():
        if p not in mixed:
            good = good or sorted(mixed, key=lambda _: rng.random())
            chosen[p] = good.pop(0)
    metrics = {"sampled_groups": len(everything), "mixed_groups": len(mixed)}
    batch = [batch[p] for p in chosen]
    groups = [[replace(rollout) for rollout in groups[p]] for p in chosen]  # no group twice
    return batch, groups, rollout_metrics(everything) | metrics


BATCHES = {"off": next_batch, "resample": mixed_groups, "substitute": substituted_groups}


# --- AT: adaptive temperature (POLARIS) ---

TEMPERATURE_STEP, TEMPERATURE_RANGE = 0.05, 0.5


def diversity(groups: list[list[Rollout]]) -> float:
    """The share of distinct 4-grams of tokens in a group, 0 without any; mean over the groups."""
    shares = []
    for group in groups:
        ids = [rollout.response_ids.tolist() for rollout in group]
        grams = [tuple(one[i : i + 4]) for one in ids for i in range(len(one) - 3)]
        shares.append(len(set(grams)) / max(1, len(grams)))
    return sum(shares) / len(shares)


def adapt_temperature(
    sample: Callable, batch: list[Problem], state: dict, config, step: int
) -> None:
    """Raise state["temperature"] until answers are as diverse as when the stage before began.

    In steps of 0.05, by at most 0.5, with the stage's first batch at each. A run's first stage,
    which has none before it, keeps its temperature.
    """
    temperature = state["temperature"]
    highest = temperature + TEMPERATURE_RANGE - 1e-9
    while True:
        sampling = Sampling(config.max_response_tokens, temperature)
        groups = sample(batch, config.samples_per_prompt, sampling, step)
        state["tokens"] += rollout_metrics(groups)["tokens"]
        seen = diversity(groups)
        if seen >= state["diversity"] or temperature >= highest:
            break
        temperature = round(temperature + TEMPERATURE_STEP, 6)
    state |= {"temperature": temperature, "diversity": seen}


# --- (6) and (9): advantages and weights ---

ADVANTAGES = ("grpo", "lite", "reinforce++", "tokens", "pass@k", "maxrl")


def advantages(rewards_P_G: torch.Tensor, groups: list[list[Rollout]], config) -> torch.Tensor:
    """The advantages that --advantage names, [P, G]; see the functions below."""
    if config.advantage == "pass@k":
        right_P_G = torch.tensor([[r.right == 1.0 for r in group] for group in groups])
        return pass_at_k_advantages(right_P_G, config.pass_k)
    if config.advantage == "maxrl":
        return maxrl_advantages(rewards_P_G)
    if config.advantage in ("reinforce++", "tokens"):
        lengths_P_G = torch.tensor([[len(r.response_ids) for r in group] for group in groups])
        if config.advantage == "reinforce++":
            rewards_P_G = losses.advantages(rewards_P_G, center="group", scale="none")
        return normalize_over_tokens(rewards_P_G, lengths_P_G)
    scale = "batch" if config.advantage == "lite" else "group"
    return losses.advantages(rewards_P_G, center="group", scale=scale)


def pass_at_k_advantages(right_P_G: torch.Tensor, k: int) -> torch.Tensor:
    """Advantage of each response when k responses together are rewarded (arXiv 2508.10751).

    A set of k responses earns 1 if any of them is right. Over all sets of k out of a group's G, m
    is the mean reward and s its standard deviation; a response's advantage is (mean reward of the
    sets that it is in - m) / s. With W wrong responses in the group:

        m = 1 - C(W, k) / C(G, k)        s = sqrt(m (1 - m))
        A(right) = (1 - m) / s           A(wrong) = (1 - m - C(W - 1, k - 1) / C(G - 1, k - 1)) / s

    right_P_G: bool [P, G], with 1 <= k <= G. Returns float32 [P, G], zero where every set earns the
    same.
    """
    size, rows = right_P_G.shape[1], []
    for right_G in right_P_G.tolist():
        wrong = right_G.count(False)
        mean = 1 - math.comb(wrong, k) / math.comb(size, k)
        spread = math.sqrt(mean * (1 - mean))
        if spread == 0:
            rows.append([0.0] * size)
            continue
        # Where a group has a spread, it has a wrong response: wrong - 1 is no less than 0.
        lost = math.comb(wrong - 1, k - 1) / math.comb(size - 1, k - 1)
        rows.append([(1 - mean - (0 if right else lost)) / spread for right in right_G])
    return torch.tensor(rows, dtype=torch.float32)


def maxrl_advantages(rewards_P_G: torch.Tensor) -> torch.Tensor:
    """MaxRL's advantages (arXiv 2602.02710): A = (r - group mean) / group mean.

    With rewards of 0 and 1 this is the gradient of the log of the success rate, not of the rate.
    rewards_P_G: float [P, G]. Returns [P, G]; a group of mean 0 gets 0. Raises ValueError for a
    negative reward.
    """
    if (rewards_P_G < 0).any():
        raise ValueError("MaxRL divides by the mean reward: rewards must be at least 0")
    mean_P_1 = rewards_P_G.mean(dim=1, keepdim=True)
    return torch.where(mean_P_1 > 0, losses.advantages(rewards_P_G, scale="none") / mean_P_1, 0.0)


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


def policy_loss(logps_M: torch.Tensor, micro: MicroBatch, config) -> torch.Tensor:
    """The loss of each token: JustRL's, or with --loss reinforce -A log pi(token).

    That has no ratio and no clip. arXiv 2603.18756 finds it as good as GRPO, with group-relative
    advantages.
    """
    if config.loss == "reinforce":
        return -micro.advantages_M * logps_M
    bounds = config.clip_low, config.clip_high, config.dual_clip
    return losses.clipped_policy_loss(logps_M, micro.old_logps_M, micro.advantages_M, *bounds)


def icepop_importance(micro: MicroBatch, config) -> torch.Tensor:
    """IcePop's importance weight of each token, without gradient.

    It is pi_trainer / pi_engine where that is in [--icepop_low, --icepop_high], else 0.
    """
    ratio_M = losses.truncated_importance(micro.old_logps_M, micro.engine_logps_M, cap=math.inf)
    kept_M = (ratio_M >= config.icepop_low) & (ratio_M <= config.icepop_high)
    return torch.where(kept_M, ratio_M, 0.0)


# --- EC: entropy control ---


def entropy_coefficient(state: dict, config) -> float:
    """The weight of the entropy bonus. Under a target, it is 0 while the last entropy is above."""
    if not config.entropy_target:
        return config.entropy_coef
    low = state["entropy"] is not None and state["entropy"] <= config.entropy_target
    return state["entropy_coef"] if low else 0.0


def adapt_entropy(state: dict, metrics: dict, config) -> dict:
    """After a step: adapt the bonus's weight to the step's entropy. Returns it, for the metrics.

    Up by --entropy_step where the entropy (nats) is below --entropy_target, else down by it, and
    never below 0 (Skywork-OR1).
    """
    if not config.entropy_target:
        return {}
    low = metrics["entropy"] < config.entropy_target
    weight = max(0.0, state["entropy_coef"] + (1 if low else -1) * config.entropy_step)
    state |= {"entropy": metrics["entropy"], "entropy_coef": weight}
    return {"entropy_coef": weight}
