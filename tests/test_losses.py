"""losses.py against references written out in float64, element by element."""

import math
import statistics

import pytest
import torch

import losses

# --- advantages ---


def advantages_by_hand(rewards_P_G, center, scale, eps=1e-6):
    """Python floats, one response at a time."""
    everything = [reward for group in rewards_P_G for reward in group]
    result = []
    for group in rewards_P_G:
        mean = statistics.fmean(group if center == "group" else everything)
        divisor = 1.0
        if scale != "none":
            divisor = statistics.stdev(group if scale == "group" else everything) + eps
        result.append([(reward - mean) / divisor for reward in group])
    return torch.tensor(result, dtype=torch.float64)


ASYMMETRIC = [[1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, -1.0], [0.5, -0.25, 0.0, 1.0]]


@pytest.mark.parametrize("center", ["group", "batch"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_of_asymmetric_groups(center, scale):
    expected = advantages_by_hand(ASYMMETRIC, center, scale)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-12)):
        got = losses.advantages(torch.tensor(ASYMMETRIC, dtype=dtype), center, scale)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("reward", [1.0, 0.0, -1.0, 0.1, 1 / 3, 0.7, 1e6 / 3])
def test_a_group_of_equal_rewards_carries_exactly_no_signal(reward, scale):
    rewards = torch.tensor([[reward] * 7, [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    advantages = losses.advantages(rewards, "group", scale)
    assert (advantages[0] == 0.0).all()
    assert (advantages[1] != 0.0).all()


def test_a_std_needs_two_rewards():
    for shape, scale in (((4, 1), "group"), ((1, 1), "batch")):
        with pytest.raises(ValueError, match="at least two rewards"):
            losses.advantages(torch.ones(shape), "group", scale)
    assert losses.advantages(torch.tensor([[1.0], [0.0]]), "batch", "batch").abs().min() > 0.7


def test_a_reward_that_is_not_finite_is_refused():
    for bad in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match="a reward is not finite"):
            losses.advantages(torch.tensor([[1.0, bad], [0.0, 1.0]]))


def test_an_unknown_word_is_named():
    for center, scale in (("mean", "group"), ("group", "std"), ("none", "group")):
        with pytest.raises(ValueError, match="center must be"):
            losses.advantages(torch.ones(2, 2), center, scale)
    with pytest.raises(ValueError, match='"k1", "k2" or "k3"'):
        losses.kl_penalty(torch.zeros(1), torch.zeros(1), "kl")
    with pytest.raises(ValueError, match='"token" or per "sequence"'):
        losses.token_weights(torch.ones(1, 1, dtype=torch.bool), "tokens")


# --- policy loss ---


def policy_loss(ratio, advantage, low=0.2, high=0.28, dual_clip=None):
    """Loss of one token and its gradient with respect to the log-prob."""
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    loss = losses.clipped_policy_loss(
        logp,
        torch.zeros(1, dtype=torch.float64),
        torch.tensor([advantage], dtype=torch.float64),
        low,
        high,
        dual_clip,
    )
    loss.sum().backward()
    return loss.item(), logp.grad.item()


@pytest.mark.parametrize("size", [1.0, 0.3])
@pytest.mark.parametrize(
    ("ratio", "sign", "loss", "gradient"),
    [
        (1.50, +1, -1.28, 0.0),  # good and already likelier than the clip allows: no further
        (1.50, -1, +1.50, +1.50),  # bad yet likelier: pushed back, however far it went
        (0.50, +1, -0.50, -0.50),  # good yet unlikelier: pulled back, however far it went
        (0.50, -1, +0.80, 0.0),  # bad and already unlikelier than the clip allows: no further
        (1.00, +1, -1.00, -1.00),
        (1.00, -1, +1.00, +1.00),
        (1.25, +1, -1.25, -1.25),  # clip-higher: inside 1.28, outside 1.2
        (0.85, -1, +0.85, +0.85),
    ],
)
def test_the_four_quadrants_of_the_clip(ratio, sign, loss, gradient, size):
    got_loss, got_gradient = policy_loss(ratio, sign * size)
    assert got_loss == pytest.approx(loss * size, rel=1e-9)
    assert got_gradient == pytest.approx(gradient * size, rel=1e-9)


def test_dual_clip_bounds_bad_tokens_only():
    assert policy_loss(50.0, -0.5, dual_clip=10.0) == (pytest.approx(5.0), 0.0)
    assert policy_loss(9.0, -0.5, dual_clip=10.0) == (pytest.approx(4.5), pytest.approx(4.5))
    assert policy_loss(50.0, -0.5) == (pytest.approx(25.0), pytest.approx(25.0))
    assert policy_loss(50.0, 0.5, dual_clip=10.0) == policy_loss(50.0, 0.5)
    assert policy_loss(0.01, 0.5, dual_clip=10.0) == policy_loss(0.01, 0.5)


def test_absurd_log_ratios_stay_finite():
    logps = torch.tensor([1e4, -1e4, 1e4, -1e4, 90.0], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0])
    loss = losses.clipped_policy_loss(logps, torch.zeros(5), advantages, 0.2, 0.28)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logps.grad).all()
    assert loss.tolist() == pytest.approx(
        [-1.28, 0.0, math.exp(20), 0.8, math.exp(20)], rel=1e-5, abs=1e-6
    )


# --- KL penalty ---


def test_kl_values():
    logps, ref = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.5])
    d = [0.5, -1.0, 0.0]
    assert losses.kl_penalty(logps, ref, "k1").tolist() == pytest.approx(d)
    assert losses.kl_penalty(logps, ref, "k2").tolist() == pytest.approx([x * x / 2 for x in d])
    assert losses.kl_penalty(logps, ref, "k3").tolist() == pytest.approx(
        [math.exp(-x) - 1 + x for x in d], abs=1e-6
    )
    assert torch.equal(losses.kl_penalty(logps, ref), losses.kl_penalty(logps, ref, "k3"))


def test_one_odd_token_cannot_dominate():
    logps = torch.tensor([0.0, -1e3, -15.0, 1e4], requires_grad=True)
    ref = torch.tensor([-1e3, 0.0, 0.0, 0.0])
    k3 = losses.kl_penalty(logps, ref, "k3")
    assert k3.tolist() == [10.0, 10.0, 10.0, 10.0]
    k3.sum().backward()
    assert torch.isfinite(logps.grad).all()
    for kind in ("k1", "k2"):
        assert torch.isfinite(losses.kl_penalty(logps, ref, kind)).all()


def test_the_gradients_are_none_that_of_the_reverse_and_that_of_the_forward_kl():
    """Of each estimator's mean over on-policy tokens: all seven of a softmax, by probability."""
    generator = torch.Generator().manual_seed(4)
    logits, shift = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    logps, ref = logits.requires_grad_().log_softmax(-1), (logits + shift).log_softmax(-1).detach()

    def gradient(kl):
        return torch.autograd.grad(kl.sum(), logits, retain_graph=True)[0]

    reverse, forward = gradient(logps.exp() * (logps - ref)), gradient(ref.exp() * (ref - logps))
    assert reverse.abs().max() > 1e-2 and (forward - reverse).abs().max() > 1e-2
    how_often = logps.exp().detach()  # sampling has no gradient
    for kind, want in (("k1", 0 * reverse), ("k2", reverse), ("k3", forward)):
        got = gradient(how_often * losses.kl_penalty(logps, ref, kind))
        torch.testing.assert_close(got, want, atol=1e-14, rtol=0)


# --- importance, token weights ---


def test_truncated_importance():
    logps = torch.tensor([-1.0, -1.0, -5.0, 1e4, -1e4], requires_grad=True)
    engine = torch.tensor([-1.5, -1.0, -1.0, 0.0, 0.0])
    weights = losses.truncated_importance(logps, engine, cap=2.0)
    assert weights.tolist() == pytest.approx(
        [math.exp(0.5), 1.0, math.exp(-4.0), 2.0, 0.0], rel=1e-6, abs=1e-8
    )
    assert losses.truncated_importance(logps, engine, cap=1.2)[0].item() == pytest.approx(1.2)
    assert not weights.requires_grad


@pytest.mark.parametrize("how", ["token", "sequence"])
@pytest.mark.parametrize("lengths", [[3, 5, 1, 7], [7], [4, 0, 2, 0, 7], [1, 1, 1], [0, 0]])
def test_token_weights(lengths, how):
    weights = losses.token_weights(torch.arange(7) < torch.tensor(lengths)[:, None], how)
    assert weights.dtype == torch.float32
    present = sum(length > 0 for length in lengths)
    for row, length in zip(weights.tolist(), lengths, strict=True):
        divisor = sum(lengths) if how == "token" else present * length
        by_hand = [1 / divisor for _ in range(length)] + [0.0] * (7 - length)
        assert row == pytest.approx(by_hand, rel=1e-6, abs=0)
