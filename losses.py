"""The mathematics of the three recipes, as pure functions on tensors.

The suffix of a name gives the shape of its tensor. Without one, the tensor may have any shape:

    _P  prompts                      _R  positions of a response
    _G  samples of one prompt        _T  positions of a whole sequence
    _B  rows of a batch              _M  response tokens of a batch, end to end
    _V  the vocabulary               _1  a dimension kept with length 1

The policy-gradient loss of every recipe here has one form,

    loss = sum over tokens of  weight * per-token loss,

and how a paper aggregates ("token mean", "sequence mean") only changes the weights. The weights of
a global mini-batch sum to 1. They are computed before it is cut into micro-batches or dealt to
ranks, so the cut cannot change the gradient.
"""

import torch

# exp() of a float32 overflows at 88. A log-ratio of 20 is a ratio of 5e8, far beyond any clip.
MAX_LOG_RATIO = 20.0
# The papers' code clamps the KL estimate of one token to +/-10: no single token dominates a batch.
MAX_KL = 10.0


def advantages(
    rewards_P_G: torch.Tensor, center: str = "group", scale: str = "group", eps: float = 1e-6
) -> torch.Tensor:
    """Advantage of each response: A = (r - center) / (scale + eps).

    rewards_P_G: float [P, G], the G rewards of each of P prompts. Returns [P, G].

    center: "group" subtracts the mean of the prompt's own samples, "batch" the mean of all P * G
            rewards.
    scale:  "group" divides by the std of the prompt's own samples (GRPO), "batch" by the std of all
            P * G raw rewards (Lite PPO, arXiv 2508.08221 section 5), "none" does not divide
            (Dr. GRPO, arXiv 2503.20783).

    Both stds are unbiased (n - 1). Under center="group", a group of equal rewards gets exactly 0.

    >>> advantages(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    tensor([[ 0.7071, -0.7071],
            [ 0.0000,  0.0000]])

    Raises ValueError for an unknown center or scale, or for the std of a single reward.
    """
    if center not in ("group", "batch") or scale not in ("group", "batch", "none"):
        raise ValueError(
            'center must be "group" or "batch", and scale "group", "batch" or "none", '
            f"not {center!r} and {scale!r}"
        )
    compared = {"group": rewards_P_G.shape[1], "batch": rewards_P_G.numel()}
    if compared.get(scale, 2) < 2:
        raise ValueError(f"scale={scale!r} needs at least two rewards for a standard deviation")
    if not torch.isfinite(rewards_P_G).all():
        raise ValueError("a reward is not finite and has no advantage: correct the reward function")
    mean = rewards_P_G.mean(dim=1, keepdim=True) if center == "group" else rewards_P_G.mean()
    centered_P_G = rewards_P_G - mean
    if center == "group":
        # With equal rewards, rounding may leave 1e-8, which dividing by eps would make 1e-2.
        equal_P_1 = (rewards_P_G == rewards_P_G[:, :1]).all(dim=1, keepdim=True)
        centered_P_G = centered_P_G.masked_fill(equal_P_1, 0.0)
    if scale == "none":
        return centered_P_G
    std = rewards_P_G.std(dim=1, keepdim=True) if scale == "group" else rewards_P_G.std()
    return centered_P_G / (std + eps)


def token_logps(
    logits_M_V: torch.Tensor, targets_M: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each target token, and entropy of the distribution it was drawn from, in nats.

        logp = log softmax(z / temperature)[target]        H = -sum_v p_v log p_v

    logits_M_V: [M, V]; targets_M: int64 [M]. Returns (logps [M], entropy [M]) in float32. This is
    the definition. trainer/policy/logps.py computes the same in chunks, never all logits at once.

    temperature: that of the sampling. At another one, these are log-probs of another policy.
    """
    log_probs_M_V = (logits_M_V.float() / temperature).log_softmax(dim=-1)
    logps_M = log_probs_M_V.gather(-1, targets_M[:, None])[:, 0]
    return logps_M, -(log_probs_M_V.exp() * log_probs_M_V).sum(dim=-1)


def clipped_policy_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> torch.Tensor:
    """Per-token clipped surrogate, negated so that it is minimised.

        r = exp(logp - old_logp)        loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

    clip_high > clip_low is DAPO's "clip-higher" (arXiv 2503.14476 eq. 10): rare tokens may grow
    further before their gradient stops. dual_clip = c bounds the loss of a token with A < 0 by
    -c A at any ratio. All tensors have one shape, and so has the result.
    """
    ratio = torch.exp(torch.clamp(logps - old_logps, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    clipped_ratio = torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-ratio * advantages, -clipped_ratio * advantages)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return loss


def kl_penalty(logps: torch.Tensor, ref_logps: torch.Tensor, kind: str = "k3") -> torch.Tensor:
    """Per-token estimate of KL(policy || reference) in nats, from tokens that the policy sampled.

        d = logp - ref_logp
        k1 = d            unbiased, noisy, may be negative
        k2 = d^2 / 2      biased, never negative
        k3 = e^-d - 1 + d unbiased, never negative, clamped to +/-10 as in the papers' code

    Their *gradients* differ, too. When the estimate is part of the loss and the tokens are
    on-policy, the gradient of k1 is zero in expectation, so k1 is no penalty at all. After a fixed
    prefix, the gradient of k2 is that of the reverse KL(policy || reference) of the next token. The
    gradient of k3 is that of the forward KL(reference || policy), the same to first order in d.

    Raises ValueError for an unknown kind.
    """
    d = torch.clamp(logps - ref_logps, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    if kind == "k1":
        return d
    if kind == "k2":
        return d.square() / 2
    if kind == "k3":
        return torch.clamp(torch.exp(-d) - 1 + d, -MAX_KL, MAX_KL)
    raise ValueError(f'KL estimator must be "k1", "k2" or "k3", got {kind!r}')


def truncated_importance(
    logps: torch.Tensor, engine_logps: torch.Tensor, cap: float
) -> torch.Tensor:
    """Truncated importance weight of each token: min(pi_trainer / pi_engine, cap), no gradient.

    Multiply the policy loss of a token by it, to correct for a sampling engine whose probabilities
    differ from the trainer's, for example because of bf16 kernels. logps are the trainer's before
    the update, engine_logps those that the engine reported.
    """
    log_ratio = torch.clamp(logps - engine_logps, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.clamp(log_ratio.exp(), max=cap).detach()


def token_weights(mask_B_R: torch.Tensor, how: str) -> torch.Tensor:
    """The weight of every token in the loss: float32 [B, R], zero outside the mask, summing to 1.

    mask_B_R: bool [B, R], the response tokens of a whole *global* mini-batch, before any split.

        "token":     1 / (number of all response tokens)             all tokens count equally
        "sequence":  1 / (number of responses * length of this one)  all responses count equally

    "token" is DAPO's (eq. 12), "sequence" is GRPO's. A response that was filtered out has no token
    in the mask and counts as absent. An empty mask gives zeros.

    >>> token_weights(torch.tensor([[True, True], [True, False]]), "sequence")
    tensor([[0.2500, 0.2500],
            [0.5000, 0.0000]])

    Raises ValueError for an unknown how.
    """
    weights_B_R = mask_B_R.float()
    if how == "token":
        return weights_B_R / weights_B_R.sum().clamp(min=1)
    if how == "sequence":
        length_B_1 = weights_B_R.sum(dim=1, keepdim=True)
        return weights_B_R / length_B_1.clamp(min=1) / (length_B_1 > 0).sum().clamp(min=1)
    raise ValueError(f'token weights are per "token" or per "sequence", got {how!r}')
