"""losses.py against references written out in float64, element by element."""

import itertools
import math
import statistics
import subprocess
import sys

import pytest
import torch
from conftest import ENVIRONMENT, ROOT

import losses

# --- advantages ---


def advantages_by_hand(rewards_P_G, center, scale, eps=1e-6):
    """Python floats, one response at a time."""
    everything = [reward for group in rewards_P_G for reward in group]
    result = []
    for group in rewards_P_G:
        mean = statistics.fmean(group if center == "group" else everything)
        divisor = (
            1.0
            if scale == "none"
            else statistics.stdev(group if scale == "group" else everything) + eps
        )
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


def test_a_group_is_judged_by_itself_alone():
    rewards = torch.tensor(ASYMMETRIC)
    other = rewards.clone()
    other[1:] = torch.tensor([[3.0, 1.0, 4.0, 1.0], [5.0, 9.0, 2.0, 6.0]])
    assert torch.equal(losses.advantages(rewards)[0], losses.advantages(other)[0])
    # Groups are rows. Read as columns, the rewards of the first prompt would get other advantages.
    assert not torch.allclose(
        losses.advantages(rewards.T.reshape(3, 4))[0], losses.advantages(rewards)[0]
    )


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("reward", [1.0, 0.0, -1.0, 0.1, 1 / 3, 0.7, 1e6 / 3])
def test_a_group_of_equal_rewards_carries_exactly_no_signal(reward, scale):
    rewards = torch.tensor([[reward] * 7, [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    advantages = losses.advantages(rewards, "group", scale)
    assert (advantages[0] == 0.0).all()
    assert (advantages[1] != 0.0).all()


def test_a_batch_of_equal_rewards_is_finite():
    for center in ("group", "batch"):
        for scale in ("group", "batch", "none"):
            assert (losses.advantages(torch.ones(3, 4), center, scale) == 0).all()


def test_batch_scale_takes_the_raw_rewards_not_the_centred_ones():
    rewards = torch.tensor(
        [[10.0, 10.2], [0.0, 0.2]], dtype=torch.float64
    )  # groups alike inside, far from each other
    expected = 0.1 / (statistics.stdev([10.0, 10.2, 0.0, 0.2]) + 1e-6)
    assert losses.advantages(rewards, "group", "batch")[0, 1].item() == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize(
    ("center", "scale"), [("mean", "group"), ("group", "std"), ("none", "group")]
)
def test_unknown_center_or_scale_is_named(center, scale):
    with pytest.raises(ValueError, match="center must be"):
        losses.advantages(torch.ones(2, 2), center, scale)


def test_a_std_needs_two_rewards():
    with pytest.raises(ValueError, match="at least two rewards"):
        losses.advantages(torch.ones(4, 1), "group", "group")
    with pytest.raises(ValueError, match="at least two rewards"):
        losses.advantages(torch.ones(1, 1), "group", "batch")
    assert losses.advantages(torch.tensor([[1.0], [0.0]]), "batch", "batch").abs().min() > 0.7


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_reward_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="a reward is not finite"):
        losses.advantages(torch.tensor([[1.0, bad], [0.0, 1.0]]))


# --- log-probs + entropy ---

M, D, V = 23, 16, 61


def problem(dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, D, generator=generator).mul(scale).to(dtype)
    weight = torch.randn(V, D, generator=generator).to(dtype)
    targets = torch.randint(0, V, (M,), generator=generator)
    coefficients = torch.randn(2, M, generator=generator)
    return hidden, weight, targets, coefficients


def reference(hidden, weight, targets, coefficients, temperature, entropy_grad):
    """Log-probs, entropies and both gradients of a weighted sum of them, by float64 autograd."""
    hidden, weight = (x.double().clone().requires_grad_() for x in (hidden, weight))
    log_probs = (hidden @ weight.T / temperature).log_softmax(dim=-1)
    logps = log_probs[torch.arange(len(targets)), targets]
    entropy = torch.special.entr(log_probs.exp()).sum(dim=-1)
    loss = (coefficients[0] * logps).sum() + (
        (coefficients[1] * entropy).sum() if entropy_grad else 0.0
    )
    loss.backward()
    return logps.detach(), entropy.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.2])
@pytest.mark.parametrize("chunk", [1, 5, M, 1024])
def test_token_logps_values_and_gradients(chunk, temperature, entropy_grad):
    hidden, weight, targets, coefficients = problem()
    expected = reference(hidden, weight, targets, coefficients, temperature, entropy_grad)
    hidden.requires_grad_(), weight.requires_grad_()
    logps, entropy = losses.token_logps(hidden, weight, targets, temperature, chunk, entropy_grad)
    assert logps.dtype == entropy.dtype == torch.float32
    loss = (coefficients[0] * logps).sum() + (
        (coefficients[1] * entropy).sum() if entropy_grad else 0.0
    )
    loss.backward()
    for got, want in zip((logps, entropy, hidden.grad, weight.grad), expected, strict=True):
        torch.testing.assert_close(got.detach().double(), want, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.0625, 1.5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_token_logps_of_heads_that_do_more_than_multiply(with_bias, scale, softcap, entropy_grad):
    hidden, weight, targets, coefficients = problem()
    bias = torch.randn(V, generator=torch.Generator().manual_seed(5)) if with_bias else None
    leaves = [x for x in (hidden, weight, bias) if x is not None]
    doubles = [x.double().requires_grad_() for x in leaves]
    logits = scale * (doubles[0] @ doubles[1].T + (doubles[2] if with_bias else 0))
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    log_probs = (logits / 0.7).log_softmax(dim=-1)
    wanted = [log_probs[torch.arange(M), targets], torch.special.entr(log_probs.exp()).sum(-1)]

    for leaf in leaves:
        leaf.requires_grad_()
    outputs = losses.token_logps(
        hidden,
        weight,
        targets,
        0.7,
        chunk=5,
        entropy_grad=entropy_grad,
        bias=bias,
        scale=scale,
        softcap=softcap,
    )
    for pair in (wanted, outputs):
        terms = [(c * x).sum() for c, x in zip(coefficients, pair, strict=True)]
        sum(terms if entropy_grad else terms[:1]).backward()
    for got, want in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(got.double(), want, atol=3e-5, rtol=1e-5)
    for got, want in zip(leaves, doubles, strict=True):
        torch.testing.assert_close(got.grad.double(), want.grad, atol=3e-5, rtol=1e-5)


def test_the_chunk_is_a_matter_of_memory_alone():
    hidden, weight, targets, _ = problem()
    whole = losses.token_logps(hidden, weight, targets, chunk=M)
    for chunk in (1, 2, 7, 22):
        for got, want in zip(
            losses.token_logps(hidden, weight, targets, chunk=chunk), whole, strict=True
        ):
            torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-6)


def test_entropy_is_that_of_the_whole_softmax_not_of_the_sampled_tokens():
    weight = torch.eye(4) * 5
    hidden = torch.eye(4)[:1].repeat(
        4, 1
    )  # the same distribution four times, four different tokens sampled
    logps, entropy = losses.token_logps(hidden, weight, torch.arange(4))
    p = torch.tensor([5.0, 0.0, 0.0, 0.0], dtype=torch.float64).softmax(-1)
    expected = -sum(q * math.log(q) for q in p.tolist())
    assert entropy.tolist() == pytest.approx([expected] * 4, rel=1e-5)
    assert -logps.mean().item() > 10 * expected
    uniform = losses.token_logps(torch.zeros(1, 4), weight, torch.tensor([2]))[1]
    assert uniform.item() == pytest.approx(math.log(4), rel=1e-6)


def test_entropy_carries_gradient_only_when_asked():
    hidden, weight, targets, _ = problem()
    hidden.requires_grad_()
    logps, entropy = losses.token_logps(hidden, weight, targets)
    assert logps.requires_grad
    assert not entropy.requires_grad
    logps, entropy = losses.token_logps(hidden, weight, targets, entropy_grad=True)
    (only_logps,) = torch.autograd.grad(logps.sum(), hidden, retain_graph=True)
    (only_entropy,) = torch.autograd.grad(entropy.sum(), hidden)
    plain = torch.autograd.grad(losses.token_logps(hidden, weight, targets)[0].sum(), hidden)[0]
    torch.testing.assert_close(only_logps, plain, atol=1e-6, rtol=1e-5)
    assert only_entropy.abs().max() > 1e-2


def test_bfloat16_head_float32_softmax():
    hidden, weight, targets, coefficients = problem(torch.bfloat16)
    logps64, entropy64, grad_hidden64, grad_weight64 = reference(
        hidden, weight, targets, coefficients, 1.2, False
    )
    hidden.requires_grad_(), weight.requires_grad_()
    logps, entropy = losses.token_logps(hidden, weight, targets, 1.2, chunk=4)
    assert logps.dtype == entropy.dtype == torch.float32
    # A bf16 logit of size up to 16 is off by at most 2^-5; the softmax adds nothing of its own.
    torch.testing.assert_close(logps.detach().double(), logps64, atol=2**-4, rtol=0)
    torch.testing.assert_close(entropy.double(), entropy64, atol=2**-4, rtol=0)
    (coefficients[0] * logps).sum().backward()
    for got, want in ((hidden.grad, grad_hidden64), (weight.grad, grad_weight64)):
        assert got.dtype == torch.bfloat16
        assert (got.double() - want).norm() < 0.02 * want.norm()


def test_the_weight_gradient_of_many_bfloat16_chunks_keeps_its_small_terms():
    hidden = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    losses.token_logps(hidden, weight, torch.zeros(4096, dtype=torch.int64), chunk=1)[
        0
    ].sum().backward()
    assert weight.grad.flatten().tolist() == [
        2048.0,
        -2048.0,
    ]  # summed in bf16, 0.5 at a time, it would stop at 128


def test_no_token_at_all_gives_zero_gradients():
    hidden, weight = torch.zeros(0, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    logps, entropy = losses.token_logps(hidden, weight, torch.zeros(0, dtype=torch.int64))
    assert logps.shape == entropy.shape == (0,)
    logps.sum().backward()
    assert hidden.grad.shape == (0, D)
    assert (weight.grad == 0).all()


def test_huge_logits_do_not_overflow():
    hidden, weight, targets, _ = problem(scale=1e4)
    hidden.requires_grad_()
    logps, entropy = losses.token_logps(hidden, weight, targets)
    logps.sum().backward()
    assert torch.isfinite(logps).all()
    assert torch.isfinite(entropy).all()
    assert torch.isfinite(hidden.grad).all()


PEAK = r"""
import re, sys, torch, losses
torch.set_num_threads(1)
M, d, V = 4096, 64, 16384
hidden, weight = torch.randn(M, d, requires_grad=True), torch.randn(V, d, requires_grad=True)
targets = torch.randint(0, V, (M,))
# Load what is loaded lazily.
losses.token_logps(hidden[:8], weight, targets[:8])[0].sum().backward()
def high_water():  # of this program alone; ru_maxrss would start from that of its parent
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
before = high_water()
if sys.argv[1] == "plain":
    (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None]).sum().backward()
else:
    losses.token_logps(hidden, weight, targets, chunk=128)[0].sum().backward()
print(high_water() - before)
"""


def test_memory_stays_under_an_eighth_of_the_plain_softmax():
    def peak(how):
        command = [sys.executable, "-c", PEAK, how]
        return int(
            subprocess.run(
                command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=True
            ).stdout
        )

    plain, chunked = peak("plain"), peak("chunked")
    assert plain > 2 * 4096 * 16384 * 4 / 1024, "the plain softmax must show up in the measurement"
    assert chunked < plain / 8


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


def test_clip_on_a_grid_against_the_formula():
    generator = torch.Generator().manual_seed(1)
    logps, old = torch.randn(2, 500, generator=generator, dtype=torch.float64)
    advantages = torch.randn(500, generator=generator, dtype=torch.float64)
    got = losses.clipped_policy_loss(logps, old, advantages, 0.2, 0.4, 3.0)
    for i, (a, loss) in enumerate(zip(advantages.tolist(), got.tolist(), strict=True)):
        ratio = math.exp(logps[i] - old[i])
        expected = -min(ratio * a, min(max(ratio, 0.8), 1.4) * a)
        if a < 0:
            expected = min(expected, -3.0 * a)
        assert loss == pytest.approx(expected, rel=1e-12)


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


def test_the_gradient_at_ratio_one_is_the_policy_gradient():
    logps = torch.randn(9, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(9, dtype=torch.float64)
    losses.clipped_policy_loss(logps, logps.detach(), advantages, 0.2, 0.28, 10.0).sum().backward()
    torch.testing.assert_close(logps.grad, -advantages)


def test_diagnostics_tell_where_the_clip_stopped_the_gradient():
    generator = torch.Generator().manual_seed(2)
    logps = torch.randn(1000, generator=generator, dtype=torch.float64).mul(0.4).requires_grad_()
    old = torch.zeros(1000, dtype=torch.float64)
    advantages = torch.randn(1000, generator=generator, dtype=torch.float64)
    losses.clipped_policy_loss(logps, old, advantages, 0.2, 0.28).sum().backward()
    watched = losses.update_diagnostics(logps, old, advantages, 0.2, 0.28)
    stopped = logps.grad == 0
    assert torch.equal(stopped & (advantages < 0), watched["clip_fraction_low"].bool())
    assert torch.equal(stopped & (advantages > 0), watched["clip_fraction_high"].bool())
    assert 0.05 < watched["clip_fraction_low"].mean() < 0.5
    assert 0.05 < watched["clip_fraction_high"].mean() < 0.5
    expected = [math.exp(d) - 1 - d for d in logps.tolist()]
    assert watched["approx_kl"].tolist() == pytest.approx(expected, abs=1e-12)
    assert not any(value.requires_grad for value in watched.values())


def test_approx_kl_estimates_the_kl_from_old_to_new_without_bias():
    old, new = torch.randn(
        2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    ).log_softmax(-1)
    watched = losses.update_diagnostics(new, old, torch.ones(6), 0.2, 0.2)
    exact = (old.exp() * (old - new)).sum().item()
    assert (old.exp() * watched["approx_kl"]).sum().item() == pytest.approx(exact, rel=1e-9)


def test_diagnostics_of_absurd_ratios_are_finite():
    watched = losses.update_diagnostics(
        torch.tensor([1e4, -1e4]), torch.zeros(2), torch.ones(2), 0.2, 0.2
    )
    assert all(torch.isfinite(value).all() for value in watched.values())


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
    with pytest.raises(ValueError, match='"k1", "k2" or "k3"'):
        losses.kl_penalty(logps, ref, "kl")


def test_one_odd_token_cannot_dominate():
    logps, ref = (
        torch.tensor([0.0, -1e3, -15.0, 1e4], requires_grad=True),
        torch.tensor([-1e3, 0.0, 0.0, 0.0]),
    )
    k3 = losses.kl_penalty(logps, ref, "k3")
    assert k3.tolist() == [10.0, 10.0, 10.0, 10.0]
    k3.sum().backward()
    assert torch.isfinite(logps.grad).all()
    for kind in ("k1", "k2"):
        assert torch.isfinite(losses.kl_penalty(logps, ref, kind)).all()


def policy_and_reference(distance=1.0):
    """A softmax over seven tokens, and another one at a distance."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(7, generator=generator, dtype=torch.float64)
    ref_logits = logits + distance * torch.randn(7, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), ref_logits.log_softmax(-1)


def expected_gradient(kind, distance=1.0):
    """The gradient of the estimator's mean over on-policy tokens.

    The mean is exact: it takes all seven tokens, weighted by the policy's probabilities.
    """
    logits, ref = policy_and_reference(distance)
    logps = logits.log_softmax(-1)
    how_often = logps.exp().detach()  # sampling has no gradient
    (how_often * losses.kl_penalty(logps, ref, kind)).sum().backward()
    return logits.grad


def kl_gradient(direction, distance=1.0):
    logits, ref = policy_and_reference(distance)
    logps = logits.log_softmax(-1)
    kl = logps.exp() * (logps - ref) if direction == "reverse" else ref.exp() * (ref - logps)
    kl.sum().backward()
    return logits.grad


def test_which_estimators_are_unbiased():
    logits, ref = policy_and_reference()
    logps = logits.log_softmax(-1).detach()
    exact = (logps.exp() * (logps - ref)).sum().item()

    def mean(kind):
        return (logps.exp() * losses.kl_penalty(logps, ref, kind)).sum().item()

    assert mean("k1") == pytest.approx(exact, rel=1e-12)
    assert mean("k3") == pytest.approx(exact, rel=1e-12)
    assert abs(mean("k2") - exact) > 0.03 * exact
    assert losses.kl_penalty(logps, ref, "k1").min() < 0
    for kind in ("k2", "k3"):
        assert losses.kl_penalty(logps, ref, kind).min() >= 0


def test_k1_is_no_penalty_at_all():
    assert expected_gradient("k1").abs().max() < 1e-15
    assert kl_gradient("reverse").abs().max() > 1e-2


def test_the_gradient_of_k2_is_that_of_the_reverse_kl():
    torch.testing.assert_close(expected_gradient("k2"), kl_gradient("reverse"), atol=1e-14, rtol=0)


def test_the_gradient_of_k3_is_that_of_the_forward_kl():
    torch.testing.assert_close(expected_gradient("k3"), kl_gradient("forward"), atol=1e-14, rtol=0)
    assert (expected_gradient("k3") - kl_gradient("reverse")).abs().max() > 1e-2


def test_k3_and_the_reverse_kl_agree_to_first_order():
    def difference(distance):
        return (expected_gradient("k3", distance) - kl_gradient("reverse", distance)).norm().item()

    def size(distance):
        return kl_gradient("reverse", distance).norm().item()

    assert difference(1e-3) < 2e-3 * size(1e-3)
    assert difference(1e-3) == pytest.approx(
        difference(1e-2) / 100, rel=0.05
    )  # what is left is of second order


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


def weights_by_hand(lengths, width, how):
    present = [length for length in lengths if length]
    rows = []
    for length in lengths:
        if not length:
            weight = 0.0
        elif how == "token":
            weight = 1 / sum(present)
        else:
            weight = 1 / (len(present) * length)
        rows.append([weight] * length + [0.0] * (width - length))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("how", ["token", "sequence"])
@pytest.mark.parametrize("lengths", [[3, 5, 1, 7], [7], [4, 0, 2, 0, 7], [1, 1, 1]])
def test_token_weights(lengths, how):
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    weights = losses.token_weights(mask, how)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(
        weights.double(), weights_by_hand(lengths, 7, how), atol=1e-8, rtol=1e-6
    )
    assert weights.sum().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("how", ["token", "sequence"])
def test_nothing_in_the_mask_weighs_nothing(how):
    assert (losses.token_weights(torch.zeros(3, 4, dtype=torch.bool), how) == 0).all()


def test_an_unknown_aggregation_is_named():
    with pytest.raises(ValueError, match='"token" or per "sequence"'):
        losses.token_weights(torch.ones(1, 1, dtype=torch.bool), "tokens")


# --- the losses of lab/table1.py ---


def by_sets(right, k):
    """pass@k advantages from their definition: all sets of k responses, in float64."""
    sets = list(itertools.combinations(range(len(right)), k))
    rewards = [float(any(right[i] for i in one)) for one in sets]
    mean = statistics.fmean(rewards)
    spread = statistics.pstdev(rewards)
    own = [
        statistics.fmean(r for one, r in zip(sets, rewards, strict=True) if i in one)
        for i in range(len(right))
    ]
    return [(value - mean) / spread if spread else 0.0 for value in own]


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_pass_at_k_advantages_against_all_sets(k):
    groups = [[i < count for i in range(6)] for count in range(7)]
    seen = losses.pass_at_k_advantages(torch.tensor(groups), k)
    expected = torch.tensor([by_sets(group, k) for group in groups], dtype=torch.float64)
    torch.testing.assert_close(seen.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(seen.sum(dim=1), torch.zeros(7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_advantages_refuse_a_k_beyond_the_group(k):
    with pytest.raises(ValueError, match=f"k from 1 to 4, not {k}"):
        losses.pass_at_k_advantages(torch.ones(2, 4, dtype=torch.bool), k)


def test_maxrl_advantages():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0] * 4, [0.3] * 4])
    expected = [[3.0, -1, -1, -1], [1 / 3, 1 / 3, 1 / 3, -1], [0.0] * 4, [0.0] * 4]
    torch.testing.assert_close(losses.maxrl_advantages(rewards), torch.tensor(expected))
    with pytest.raises(ValueError, match="at least 0"):
        losses.maxrl_advantages(torch.tensor([[1.0, -1.0]]))


def test_normalize_over_tokens_against_one_entry_a_token():
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(5, 4, generator=generator)
    lengths = torch.randint(0, 30, (5, 4), generator=generator)
    seen = losses.normalize_over_tokens(values, lengths)
    tokens = values.double().flatten().repeat_interleave(lengths.flatten())
    expected = (values.double() - tokens.mean()) / tokens.var(correction=0).sqrt()
    torch.testing.assert_close(seen.double(), expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(seen, (values - values.mean()) / values.std(), atol=0.05)


@pytest.mark.parametrize("length", [0, 7])
def test_normalize_over_tokens_of_nothing_and_of_equals_is_zero(length):
    seen = losses.normalize_over_tokens(
        torch.full((2, 3), 0.25), torch.full((2, 3), length, dtype=torch.int64)
    )
    torch.testing.assert_close(seen, torch.zeros(2, 3), atol=1e-6, rtol=0)


def test_reinforce_is_the_clipped_loss_s_gradient_at_ratio_one_and_knows_no_clip_elsewhere():
    logps = torch.tensor([-1.0, -0.2, -3.0], requires_grad=True)
    values = torch.tensor([1.5, -0.5, 2.0])
    (reinforce,) = torch.autograd.grad(losses.reinforce_loss(logps, values).sum(), logps)
    clipped = losses.clipped_policy_loss(logps, logps.detach(), values, 0.2, 0.28)
    torch.testing.assert_close(reinforce, torch.autograd.grad(clipped.sum(), logps)[0])
    torch.testing.assert_close(reinforce, -values)


def test_icepop_drops_what_truncation_caps():
    engine = torch.zeros(5)
    logps = torch.tensor([0.4, 0.5, 1.0, 5.0, 5.1]).log().requires_grad_()
    seen = losses.icepop_importance(logps, engine, 0.5 - 1e-6, 5.0 + 1e-6)
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.5, 1.0, 5.0, 0.0]))
    assert not seen.requires_grad
    assert losses.icepop_importance(torch.tensor([500.0]), engine[:1], 0.5, 5.0).item() == 0


def test_the_entropy_coefficient_follows_its_target_and_stays_positive():
    assert losses.adapt_entropy_coefficient(0.01, 0.2, 0.3, 0.001) == pytest.approx(0.011)
    assert losses.adapt_entropy_coefficient(0.01, 0.4, 0.3, 0.001) == pytest.approx(0.009)
    assert losses.adapt_entropy_coefficient(0.0005, 0.4, 0.3, 0.001) == 0.0


def test_an_entropy_bonus_flattens_the_distribution():
    """The whole chain in float64's company: the bonus's gradient is that of the mean entropy."""
    hidden, weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4)
    targets = torch.zeros(6, dtype=torch.int64)
    probe = hidden.clone().requires_grad_()
    _, entropy = losses.token_logps(probe, weight, targets, entropy_grad=True)
    (-0.1 * entropy.mean()).backward()
    exact = hidden.double().requires_grad_()
    logs = torch.log_softmax(exact, dim=-1)
    (0.1 * (logs.exp() * logs).sum(dim=-1).mean()).backward()
    torch.testing.assert_close(probe.grad.double(), exact.grad, atol=1e-7, rtol=1e-4)
