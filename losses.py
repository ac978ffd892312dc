"""The mathematics of the three recipes: pure functions on tensors, nothing else.

The suffix of a name gives the shape of its tensor:

    _P  prompts                      _R  positions of a response
    _G  samples of one prompt        _T  positions of a whole sequence
    _B  rows of a batch              _M  response tokens of a batch, end to end

A dimension that is kept with length 1 is written `_1`. Names without a suffix stand for tensors of
any shape.

The policy-gradient loss of every recipe here has one form,

    loss = sum over tokens of  weight * per-token loss,

and how a paper aggregates ("token mean", "sequence mean") only changes the weights. The weights of
a global mini-batch sum to 1. They are computed before the mini-batch is cut into micro-batches or
dealt to ranks, so no cut can change the gradient.
"""

import math

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

    Both stds are unbiased (n - 1). Under center="group", a group of equal rewards gets exactly 0,
    because it carries no signal.

    >>> advantages(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    tensor([[ 0.7071, -0.7071],
            [ 0.0000,  0.0000]])

    Raises ValueError for an unknown center or scale, or when a std is asked of a single reward.
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
        # Where the rewards are equal, rounding of the mean would leave 1e-8, and dividing that by
        # eps would make it 1e-2.
        equal_P_1 = (rewards_P_G == rewards_P_G[:, :1]).all(dim=1, keepdim=True)
        centered_P_G = centered_P_G.masked_fill(equal_P_1, 0.0)
    if scale == "none":
        return centered_P_G
    std = rewards_P_G.std(dim=1, keepdim=True) if scale == "group" else rewards_P_G.std()
    return centered_P_G / (std + eps)


def pass_at_k_advantages(right_P_G: torch.Tensor, k: int) -> torch.Tensor:
    """Advantage of each response when k responses together are rewarded (arXiv 2508.10751).

    A set of k responses earns 1 if any of them is right. Over all sets of k out of a group's G, the
    mean reward is m and its standard deviation s; a response's advantage is (mean reward of the
    sets that it is in - m) / s. With W wrong responses in the group that is

        m = 1 - C(W, k) / C(G, k)        s = sqrt(m (1 - m))
        A(right) = (1 - m) / s           A(wrong) = (1 - m - C(W - 1, k - 1) / C(G - 1, k - 1)) / s

    right_P_G: bool [P, G]. Returns float32 [P, G], zero where every set earns the same. k = 1 gives
    the group-normalised advantages, with the biased standard deviation.

    Raises ValueError unless 1 <= k <= G.
    """
    size = right_P_G.shape[1]
    if not 1 <= k <= size:
        raise ValueError(f"pass@k over a group of {size} needs k from 1 to {size}, not {k}")
    rows = []
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

    The rarer success is for a prompt, the more each one counts: with rewards of 0 and 1, this is
    the gradient of the log of the success rate, instead of the rate itself. rewards_P_G: float
    [P, G]. Returns [P, G]; a group of mean 0 gets 0.

    Raises ValueError for a negative reward.
    """
    if (rewards_P_G < 0).any():
        raise ValueError("MaxRL divides by the mean reward: rewards must be at least 0")
    mean_P_1 = rewards_P_G.mean(dim=1, keepdim=True)
    return torch.where(mean_P_1 > 0, advantages(rewards_P_G, scale="none") / mean_P_1, 0.0)


def normalize_over_tokens(advantages_P_G: torch.Tensor, lengths_P_G: torch.Tensor) -> torch.Tensor:
    """Shift and scale advantages to mean 0 and variance 1 over all *tokens* of the batch.

        A <- (A - mean) / sqrt(max(variance, 1e-8))

    REINFORCE++-baseline (ProRL v2) does this to A = reward - group mean. Every token of a response
    has the response's advantage, so that a long one counts as often as it has tokens; the variance
    is the biased one. Both arguments: [P, G]; lengths in tokens. Returns float32 [P, G], all zeros
    where there is no token.
    """
    weights_P_G = lengths_P_G.double() / lengths_P_G.sum().clamp(min=1)
    centered_P_G = advantages_P_G - (weights_P_G * advantages_P_G).sum()
    variance = (weights_P_G * centered_P_G.square()).sum()
    scaled_P_G = centered_P_G / variance.clamp(min=1e-8).sqrt()
    return torch.where(weights_P_G.sum() > 0, scaled_P_G, 0.0).float()


def token_logps(
    hidden_M: torch.Tensor,
    lm_head_weight: torch.Tensor,
    targets_M: torch.Tensor,
    temperature: float = 1.0,
    chunk: int = 512,
    entropy_grad: bool = False,
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each target token, and entropy of the distribution it was drawn from.

        z = scale (h W^T + bias), and softcap tanh(z / softcap) of that where there is a softcap
        logp = log softmax(z / temperature)[target]        H = -sum_v p_v log p_v

    hidden_M: [M, d] inputs of the head; lm_head_weight: [V, d]; targets_M: int64 [M]; bias: [V].
    Returns (logps [M], entropy [M]), both in nats and float32.

    At most chunk x V logits exist at any time, in the forward and in the backward pass. With a
    vocabulary of 152k, all float32 logits of one answer of 16k tokens would take 10 GB. The price
    is that the backward pass computes the logits a second time.

    temperature is the sampling temperature. Log-probs at another temperature would be those of a
    policy that the tokens were not sampled from. The entropy is that of the whole softmax, not the
    mean of -log p of the sampled tokens. It carries no gradient unless entropy_grad is set.
    """
    return _TokenLogps.apply(
        hidden_M,
        lm_head_weight,
        bias,
        targets_M,
        temperature,
        chunk,
        entropy_grad,
        scale,
        softcap,
    )


class _TokenLogps(torch.autograd.Function):
    """token_logps with a backward pass that recomputes each chunk's softmax.

    Autograd would keep the softmax of every chunk until the backward pass. There are two shorter
    ways, but torch.utils.checkpoint over chunks is slower and holds one more V x d matrix, and
    torch's linear_cross_entropy returns bfloat16 log-probs for a bfloat16 head, which is too coarse
    for ratios of probabilities.
    """

    @staticmethod
    def forward(
        ctx, hidden_M, weight, bias, targets_M, temperature, chunk, entropy_grad, scale, softcap
    ):
        logps_M = torch.empty(hidden_M.shape[0], dtype=torch.float32, device=hidden_M.device)
        entropy_M = torch.empty_like(logps_M)
        for start in range(0, hidden_M.shape[0], chunk):
            rows = slice(start, start + chunk)
            logits = _logits(hidden_M[rows], weight, bias, scale, softcap)
            log_probs = _log_softmax(logits, temperature)
            logps_M[rows] = log_probs.gather(-1, targets_M[rows, None]).squeeze(-1)
            # vecdot makes no C x V matrix of products.
            entropy_M[rows] = -torch.linalg.vecdot(log_probs.exp(), log_probs)
            del logits, log_probs  # or they would live on beside the next chunk's
        ctx.save_for_backward(hidden_M, weight, bias, targets_M, entropy_M)
        ctx.temperature, ctx.chunk, ctx.entropy_grad = temperature, chunk, entropy_grad
        ctx.scale, ctx.softcap = scale, softcap
        if not entropy_grad:
            ctx.mark_non_differentiable(entropy_M)
        return logps_M, entropy_M

    @staticmethod
    def backward(ctx, grad_logps_M, grad_entropy_M):
        hidden_M, weight, bias, targets_M, entropy_M = ctx.saved_tensors
        grad_hidden_M = torch.empty_like(hidden_M)
        # float32: a bf16 sum over chunks would lose bits
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for start in range(0, hidden_M.shape[0], ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            logits = _logits(hidden_M[rows], weight, bias, ctx.scale, ctx.softcap)
            if ctx.softcap is not None:  # d(c tanh(z / c)) / dz = 1 - tanh^2
                slope = 1 - (logits / ctx.softcap).square_()
            log_probs = _log_softmax(logits, ctx.temperature)
            del logits
            if ctx.entropy_grad:  # dH / dlogit_v = -p_v (log p_v + H)
                probs = log_probs.exp()
                grad_logits = log_probs.add_(entropy_M[rows, None]).mul_(probs)
                grad_logits.mul_(-grad_entropy_M[rows, None])
                grad_logits -= probs.mul_(grad_logps_M[rows, None])
            else:
                grad_logits = log_probs.exp_().mul_(-grad_logps_M[rows, None])
            # dlogp / dlogit = onehot - p
            grad_logits.scatter_add_(-1, targets_M[rows, None], grad_logps_M[rows, None])
            grad_logits.mul_(ctx.scale / ctx.temperature)
            if ctx.softcap is not None:
                grad_logits.mul_(slope)
                del slope
            if bias is not None:
                grad_bias += grad_logits.sum(dim=0)
            grad_logits = grad_logits.to(weight.dtype)
            grad_hidden_M[rows] = grad_logits @ weight
            if weight.dtype == torch.float32:
                # in place: no second V x d matrix
                grad_weight.addmm_(grad_logits.T, hidden_M[rows])
            else:
                grad_weight += grad_logits.T @ hidden_M[rows]
            del log_probs, grad_logits
        if bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        return grad_hidden_M, grad_weight.to(weight.dtype), grad_bias, *[None] * 6


def _logits(hidden, weight, bias, scale: float, softcap: float | None) -> torch.Tensor:
    """[C, d], [V, d], [V] -> the model's own logits [C, V], in the head's dtype or float32."""
    logits = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
    if scale != 1.0:
        logits = logits.float().mul_(scale)
    if softcap is not None:
        logits = logits.float().div_(softcap).tanh_().mul_(softcap)
    return logits


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """float32 [C, V], overwriting logits. The softmax is float32 whatever the head computes in."""
    if temperature != 1.0:
        logits = logits.float().div_(temperature)
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def clipped_policy_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> torch.Tensor:
    """Per-token clipped surrogate, negated so that it is minimised.

    All tensors have one shape, and so has the result.

        r = exp(logp - old_logp)        loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

    clip_high > clip_low is DAPO's "clip-higher" (arXiv 2503.14476 eq. 10): rare tokens may grow
    further before their gradient stops. dual_clip = c bounds the loss of a token with A < 0 by
    -c A, whatever its ratio.
    """
    ratio = torch.exp(torch.clamp(logps - old_logps, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    clipped_ratio = torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-ratio * advantages, -clipped_ratio * advantages)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return loss


def reinforce_loss(logps: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """Per-token loss of REINFORCE, -A log pi(token): no ratio and no clip. All of one shape.

    arXiv 2603.18756 finds it as good as GRPO, with group-relative advantages. Its value means
    nothing; its gradient is the policy gradient as long as the policy is the one that sampled.
    """
    return -advantages * logps


@torch.no_grad()
def update_diagnostics(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> dict[str, torch.Tensor]:
    """Per-token numbers that tell how far an update went, each of the shape of logps.

    approx_kl: k3 estimate of KL(old || new) in nats. clip_fraction_low and clip_fraction_high: 1
    where the clip removed the token's gradient, below (A < 0) and above (A > 0).
    """
    log_ratio = torch.clamp(logps - old_logps, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    return {
        "approx_kl": ratio - 1 - log_ratio,
        "clip_fraction_low": ((ratio < 1 - clip_low) & (advantages < 0)).float(),
        "clip_fraction_high": ((ratio > 1 + clip_high) & (advantages > 0)).float(),
    }


def kl_penalty(logps: torch.Tensor, ref_logps: torch.Tensor, kind: str = "k3") -> torch.Tensor:
    """Per-token estimate of KL(policy || reference) in nats, from tokens that the policy sampled.

        d = logp - ref_logp
        k1 = d            unbiased, noisy, may be negative
        k2 = d^2 / 2      biased, never negative
        k3 = e^-d - 1 + d unbiased, never negative, clamped to +/-10 as in the papers' code

    The *gradients* are another matter. When the estimate is part of the loss and the tokens are
    on-policy, the gradient of k1 is zero in expectation, so k1 is no penalty at all. The gradient
    of k2 is exactly that of the reverse KL(policy || reference). The gradient of k3 is that of the
    forward KL(reference || policy), which agrees with the reverse KL to first order in d.

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

    Multiply the policy loss of a token by it. This corrects for a sampling engine whose
    probabilities differ from the trainer's, for example because of bf16 kernels. logps are the
    trainer's before the update, engine_logps those that the engine reported with the sample.
    """
    log_ratio = torch.clamp(logps - engine_logps, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.clamp(log_ratio.exp(), max=cap).detach()


def icepop_importance(
    logps: torch.Tensor, engine_logps: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """IcePop's importance weight: pi_trainer / pi_engine where that is in [low, high], else 0.

    The arguments are those of truncated_importance. A token that the two disagree about by more
    than the bounds is not trained on at all. Without gradient.
    """
    log_ratio = torch.clamp(logps - engine_logps, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp().detach()
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)


def adapt_entropy_coefficient(
    coefficient: float, entropy: float, target: float, change: float
) -> float:
    """The entropy bonus's coefficient after a step whose mean entropy was `entropy` (nats).

    Up by `change` where the entropy is below its target, else down by it, and never below 0. In the
    system that introduced it (Skywork-OR1) the bonus is also switched off, whatever its
    coefficient, while the entropy is above the target: the caller does that.
    """
    return max(0.0, coefficient + (change if entropy < target else -change))


def token_weights(mask_B_R: torch.Tensor, how: str) -> torch.Tensor:
    """The weight of every token in the loss: float32 [B, R], zero outside the mask, summing to 1.

    mask_B_R: bool [B, R], the response tokens of a whole *global* mini-batch, before any split.

        "token":     1 / (number of all response tokens)             every token counts alike
        "sequence":  1 / (number of responses * length of this one)  every response counts alike

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
