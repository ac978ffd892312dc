"""The numbers of one step in metrics.jsonl. Nothing here has an effect on training."""

import math
from itertools import chain, product
from typing import Any

import torch

from losses import MAX_LOG_RATIO, clipped_policy_loss, kl_penalty
from trainer.data import Rollout, say
from trainer.errors import Refused
from trainer.policy.policy import MicroBatch
from trainer.ranks import from_all_ranks
from trainer.sampler.engine import GAP_FATAL, GAP_WARNING


def token_mean(values: list[torch.Tensor]) -> float:
    """The mean over the tokens of all ranks. values: [M] for each micro-batch of this rank."""
    total = sum(value_M.sum(dtype=torch.float64) for value_M in values)
    totals, counts = zip(*from_all_ranks((float(total), sum(map(len, values)))), strict=True)
    return sum(totals) / sum(counts)


def rollout_metrics(groups: list[list[Rollout]], prefix: str = "") -> dict[str, float]:
    """Mean reward, accuracy, length (tokens) and truncation of some groups; all their tokens."""
    rollouts = list(chain(*groups))
    tokens = sum(len(rollout.response_ids) for rollout in rollouts)
    values = {
        "reward": sum(rollout.reward for rollout in rollouts) / len(rollouts),
        "accuracy": sum(rollout.right for rollout in rollouts) / len(rollouts),
        "length": tokens / len(rollouts),
        "truncated": sum(rollout.truncated for rollout in rollouts) / len(rollouts),
        "tokens": tokens,
    }
    return {prefix + name: value for name, value in values.items()}


def gradient_metrics(norms: list[float]) -> dict[str, float]:
    """Mean gradient norm of a step's updates, and how many were skipped as not finite."""
    finite = [norm for norm in norms if math.isfinite(norm)]
    return {
        "grad_norm": sum(finite) / max(1, len(finite)),
        "skipped_updates": len(norms) - len(finite),
    }


def step_metrics(
    groups: list[list[Rollout]],
    minibatches: list[list[MicroBatch]],
    grad_norms: list[float],
    optimizer: torch.optim.Optimizer,
    clip: tuple[float, ...],
) -> dict[str, float]:
    """Everything that metrics.jsonl holds of one step of every recipe. Call it on every rank.

    clip: the bounds of the clipped loss, (clip_low, clip_high) and perhaps dual_clip.

    The log-prob gap compares the engine with the trainer over all tokens. If the engine's log-probs
    are raw, it covers the micro-batches for which the recipe has computed raw ones.
    """
    rewards_P_G = torch.tensor([[rollout.reward for rollout in group] for group in groups])
    correction = min(1, rewards_P_G.shape[1] - 1)  # a group of one has std 0
    micros = list(chain(*minibatches))
    for name, micro in product(("old_logps_M", "new_logps_M", "entropy_M"), micros):
        value_M = getattr(micro, name)
        if value_M is None or value_M.shape != micro.weights_M.shape or value_M.requires_grad:
            raise ValueError(f"micro.{name} must be one detached number for each response token")
    gaps = [gap_M.abs() for gap_M in engine_gaps(micros) if gap_M is not None]
    largest = max((gap_M.max().item() for gap_M in gaps if len(gap_M)), default=0.0)
    updates = [token_ratio_metrics(micro, *clip[:2]) for micro in micros]
    return {
        **rollout_metrics(groups),
        "reward_std": rewards_P_G.std(dim=1, correction=correction).mean().item(),
        "entropy": token_mean([micro.entropy_M for micro in micros]),
        "logp_gap": token_mean(gaps),
        **{name: token_mean([update[name] for update in updates]) for name in updates[0]},
        "logp_gap_max": max(from_all_ranks(largest)),
        **gradient_metrics(grad_norms),
        "learning_rate": optimizer.param_groups[0]["lr"],
    }


def engine_gaps(micros: list[MicroBatch]) -> list[torch.Tensor | None]:
    """The trainer's log-probs minus the engine's, [M] of each micro-batch.

    If the engine's are raw, micro-batches for which the recipe has computed none get None.
    """
    raw = any(micro.raw_logps_M is not None for micro in micros)
    trainer = [micro.raw_logps_M if raw else micro.old_logps_M for micro in micros]
    return [
        None if logps_M is None else logps_M - micro.engine_logps_M
        for logps_M, micro in zip(trainer, micros, strict=True)
    ]


def token_ratio_metrics(
    micro: MicroBatch, clip_low: float, clip_high: float
) -> dict[str, torch.Tensor]:
    """How far an update went, by the ratio r = exp(new - old log-prob) of each *token*; [M] each.

    approx_kl: k3 estimate of KL(old || new) in nats. clip_fraction_low and clip_fraction_high: 1 if
    a clip of the token's ratio removes its gradient, below (A < 0) and above (A > 0). A loss with
    another ratio, such as GSPO's of whole sequences, clips elsewhere.
    """
    log_ratio_M = (micro.new_logps_M - micro.old_logps_M).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_M = log_ratio_M.exp()
    return {
        "approx_kl": ratio_M - 1 - log_ratio_M,
        "clip_fraction_low": ((ratio_M < 1 - clip_low) & (micro.advantages_M < 0)).float(),
        "clip_fraction_high": ((ratio_M > 1 + clip_high) & (micro.advantages_M > 0)).float(),
    }


def kl_metrics(config: Any, minibatches: list[list[MicroBatch]]) -> dict[str, float]:
    """The mean KL to the reference (nats a token), and the penalty's share of the loss.

    config has a KL penalty: kl_coefficient, kl_estimator, and the clip's bounds.
    """
    policy_losses, penalties = [], []
    for micro in chain(*minibatches):
        bounds = config.clip_low, config.clip_high
        loss_M = clipped_policy_loss(
            micro.new_logps_M, micro.old_logps_M, micro.advantages_M, *bounds
        )
        policy_losses.append(loss_M.abs())
        penalties.append(kl_penalty(micro.new_logps_M, micro.ref_logps_M, config.kl_estimator))
    kl = token_mean(penalties)
    share = config.kl_coefficient * abs(kl)
    return {"kl": kl, "kl_loss_share": share / max(share + token_mean(policy_losses), 1e-12)}


def check_gap(step: int, metrics: dict) -> None:
    """Warn of a mean log-prob gap above GAP_WARNING; raise Refused above GAP_FATAL."""
    gap = metrics.get("logp_gap", 0.0)
    if math.isnan(gap) or gap > GAP_FATAL:
        raise Refused(
            f"step {step}: the engine's log-probs differ from the trainer's by {gap:.3g} nats a "
            f"token on average (limit {GAP_FATAL}): these answers are from other weights, or from "
            f"another temperature or top-p, than are trained. The last checkpoint is intact"
        )
    if gap > GAP_WARNING:
        say(
            f"step {step}: log-prob gap of {gap:.3g} nats between engine and trainer "
            f"(healthy: below {GAP_WARNING})"
        )
