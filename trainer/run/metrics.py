"""The numbers of one step in metrics.jsonl. Nothing here has an effect on training."""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist

import losses
from trainer.data import Rollout
from trainer.errors import Refused
from trainer.policy.policy import MicroBatch
from trainer.ranks import mean_over_ranks
from trainer.sampler.engine import GAP_FATAL, GAP_WARNING


class TokenMeans:
    """Means over all response tokens of a step, on all ranks."""

    def __init__(self):
        self.sums, self.maxima, self.tokens = {}, {}, 0

    def add(self, **values_M: torch.Tensor) -> None:
        """Add one micro-batch's values, each [M]."""
        self.tokens += len(next(iter(values_M.values())))
        for name, value_M in values_M.items():
            self.sums[name] = self.sums.get(name, 0.0) + value_M.sum(dtype=torch.float64)
            if len(value_M):
                self.maxima[name] = max(self.maxima.get(name, -math.inf), value_M.max().item())

    def means(self) -> dict[str, float]:
        """The mean of each value over all ranks' tokens."""
        totals = [float(total) for total in self.sums.values()]
        *sums, tokens = mean_over_ranks([*totals, float(self.tokens)])
        return {
            name: total / max(tokens, 1e-9) for name, total in zip(self.sums, sums, strict=True)
        }

    def maximum(self, name: str) -> float:
        """The largest of one value over all ranks."""
        tensor = torch.tensor(self.maxima.get(name, -math.inf), dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.item()


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
    group_size = rewards_P_G.shape[1]
    spread_P = rewards_P_G.std(dim=1, correction=min(1, group_size - 1))  # as (6) sees it
    micros = list(chain(*minibatches))
    raw = any(micro.raw_logps_M is not None for micro in micros)
    behaviour, gaps, updates = TokenMeans(), TokenMeans(), TokenMeans()
    for micro in micros:
        behaviour.add(entropy=micro.entropy_M)
        trainer_logps_M = micro.raw_logps_M if raw else micro.old_logps_M
        if trainer_logps_M is not None:
            gaps.add(logp_gap=(trainer_logps_M - micro.engine_logps_M).abs())
        updates.add(**token_ratio_metrics(micro, *clip[:2]))
    return {
        **rollout_metrics(groups),
        "reward_std": spread_P.mean().item(),
        **behaviour.means(),
        **gaps.means(),
        **updates.means(),
        "logp_gap_max": gaps.maximum("logp_gap"),
        **gradient_metrics(grad_norms),
        "learning_rate": optimizer.param_groups[0]["lr"],
    }


def token_ratio_metrics(
    micro: MicroBatch, clip_low: float, clip_high: float
) -> dict[str, torch.Tensor]:
    """How far an update went, by the ratio r = exp(new - old log-prob) of each *token*; [M] each.

    approx_kl: k3 estimate of KL(old || new) in nats. clip_fraction_low and clip_fraction_high: 1 if
    a clip of the token's ratio removes its gradient, below (A < 0) and above (A > 0). A loss with
    another ratio, such as GSPO's of whole sequences, clips elsewhere.
    """
    log_ratio_M = micro.new_logps_M - micro.old_logps_M
    log_ratio_M = log_ratio_M.clamp(-losses.MAX_LOG_RATIO, losses.MAX_LOG_RATIO)
    ratio_M = log_ratio_M.exp()
    up_M, down_M = micro.advantages_M > 0, micro.advantages_M < 0
    return {
        "approx_kl": ratio_M - 1 - log_ratio_M,
        "clip_fraction_low": ((ratio_M < 1 - clip_low) & down_M).float(),
        "clip_fraction_high": ((ratio_M > 1 + clip_high) & up_M).float(),
    }


def kl_metrics(config: Any, minibatches: list[list[MicroBatch]]) -> dict[str, float]:
    """The mean KL to the reference (nats a token), and the penalty's share of the loss.

    config has a KL penalty: kl_coefficient, kl_estimator, and the clip's bounds.
    """
    sizes = TokenMeans()
    for micro in chain(*minibatches):
        bounds = config.clip_low, config.clip_high
        loss_M = losses.clipped_policy_loss(
            micro.new_logps_M, micro.old_logps_M, micro.advantages_M, *bounds
        )
        kl_M = losses.kl_penalty(micro.new_logps_M, micro.ref_logps_M, config.kl_estimator)
        sizes.add(policy_loss=loss_M.abs(), kl=kl_M)
    means = sizes.means()
    penalty = config.kl_coefficient * abs(means["kl"])
    return {
        "kl": means["kl"],
        "kl_loss_share": penalty / max(penalty + means["policy_loss"], 1e-12),
    }


def check_gap(step: int, metrics: dict, say: Callable[[str], None]) -> None:
    """Warn of a mean log-prob gap above GAP_WARNING; raise Refused above GAP_FATAL."""
    gap = metrics.get("logp_gap", 0.0)
    if math.isnan(gap) or gap > GAP_FATAL:
        raise Refused(
            f"step {step}: the engine's log-probs differ from the trainer's by {gap:.3g} nats a "
            f"token on average (limit {GAP_FATAL}): it samples from other weights than are "
            f"trained. The last checkpoint is intact"
        )
    if gap > GAP_WARNING:
        say(
            f"step {step}: log-prob gap of {gap:.3g} nats between engine and trainer "
            f"(healthy: below {GAP_WARNING})"
        )
