"""logps.py: log-probs and entropies of chunks are those of all logits, and so are the gradients."""

import math

import pytest
import torch

import losses
from trainer.policy.logps import token_logps

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
    logps, entropy = token_logps(hidden, weight, targets, temperature, chunk=chunk)
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
    kind = dict(bias=bias, scale=scale, softcap=softcap)
    outputs = token_logps(hidden, weight, targets, 0.7, chunk=5, **kind)
    for pair in (wanted, outputs):
        terms = [(c * x).sum() for c, x in zip(coefficients, pair, strict=True)]
        sum(terms if entropy_grad else terms[:1]).backward()
    for got, want in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(got.detach().double(), want.detach(), atol=3e-5, rtol=1e-5)
    for got, want in zip(leaves, doubles, strict=True):
        torch.testing.assert_close(got.grad.double(), want.grad, atol=3e-5, rtol=1e-5)


def test_the_chunk_is_a_matter_of_memory_alone():
    hidden, weight, targets, _ = problem()
    whole = token_logps(hidden, weight, targets, chunk=M)
    for chunk in (1, 2, 7, 22):
        for got, want in zip(token_logps(hidden, weight, targets, chunk=chunk), whole, strict=True):
            torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-6)


def test_entropy_is_that_of_the_whole_softmax_not_of_the_sampled_tokens():
    weight = torch.eye(4) * 5
    # The same distribution four times, four different tokens sampled.
    hidden = torch.eye(4)[:1].repeat(4, 1)
    logps, entropy = token_logps(hidden, weight, torch.arange(4))
    p = torch.tensor([5.0, 0.0, 0.0, 0.0], dtype=torch.float64).softmax(-1)
    expected = -sum(q * math.log(q) for q in p.tolist())
    assert entropy.tolist() == pytest.approx([expected] * 4, rel=1e-5)
    assert -logps.mean().item() > 10 * expected
    uniform = token_logps(torch.zeros(1, 4), weight, torch.tensor([2]))[1]
    assert uniform.item() == pytest.approx(math.log(4), rel=1e-6)


def test_the_entropy_carries_its_own_gradient():
    hidden, weight, targets, _ = problem()
    hidden.requires_grad_()
    logps, entropy = token_logps(hidden, weight, targets)
    (only_logps,) = torch.autograd.grad(logps.sum(), hidden, retain_graph=True)
    (only_entropy,) = torch.autograd.grad(entropy.sum(), hidden)
    plain = torch.autograd.grad(token_logps(hidden, weight, targets)[0].sum(), hidden)[0]
    torch.testing.assert_close(only_logps, plain, atol=1e-6, rtol=1e-5)
    assert only_entropy.abs().max() > 1e-2


def test_bfloat16_head_float32_softmax():
    hidden, weight, targets, coefficients = problem(torch.bfloat16)
    logps64, entropy64, grad_hidden64, grad_weight64 = reference(
        hidden, weight, targets, coefficients, 1.2, False
    )
    hidden.requires_grad_(), weight.requires_grad_()
    logps, entropy = token_logps(hidden, weight, targets, 1.2, chunk=4)
    assert logps.dtype == entropy.dtype == torch.float32
    # A bf16 logit of size up to 16 is off by at most 2^-5; the softmax adds nothing of its own.
    torch.testing.assert_close(logps.detach().double(), logps64, atol=2**-4, rtol=0)
    torch.testing.assert_close(entropy.detach().double(), entropy64, atol=2**-4, rtol=0)
    (coefficients[0] * logps).sum().backward()
    for got, want in ((hidden.grad, grad_hidden64), (weight.grad, grad_weight64)):
        assert got.dtype == torch.bfloat16
        assert (got.double() - want).norm() < 0.02 * want.norm()


def test_the_weight_gradient_of_many_bfloat16_chunks_keeps_its_small_terms():
    hidden = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    token_logps(hidden, weight, torch.zeros(4096, dtype=torch.int64), chunk=1)[0].sum().backward()
    # Summed in bf16, 0.5 at a time, it would stop at 128.
    assert weight.grad.flatten().tolist() == [2048.0, -2048.0]


def test_no_token_at_all_gives_zero_gradients():
    hidden, weight = torch.zeros(0, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    logps, entropy = token_logps(hidden, weight, torch.zeros(0, dtype=torch.int64))
    assert logps.shape == entropy.shape == (0,)
    logps.sum().backward()
    assert hidden.grad.shape == (0, D)
    assert (weight.grad == 0).all()


def test_huge_logits_do_not_overflow():
    hidden, weight, targets, _ = problem(scale=1e4)
    hidden.requires_grad_()
    logps, entropy = token_logps(hidden, weight, targets)
    logps.sum().backward()
    assert torch.isfinite(logps).all()
    assert torch.isfinite(entropy).all()
    assert torch.isfinite(hidden.grad).all()


PEAK = r"""
import re, sys, torch
from trainer.policy.logps import token_logps
torch.set_num_threads(1)
M, d, V = 2048, 64, 16384
hidden, weight = torch.randn(M, d, requires_grad=True), torch.randn(V, d, requires_grad=True)
targets = torch.randint(0, V, (M,))
# Load what is loaded lazily.
token_logps(hidden[:8], weight, targets[:8])[0].sum().backward()
open("/proc/self/clear_refs", "w").write("5")  # the mark starts anew, at what is held now
def high_water():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
before = high_water()
if sys.argv[1] == "plain":
    (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None]).sum().backward()
else:
    token_logps(hidden, weight, targets, chunk=64)[0].sum().backward()
print(high_water() - before)
"""


def test_memory_stays_under_an_eighth_of_the_plain_softmax(start, tmp_path):
    script = tmp_path / "peak.py"
    script.write_text(PEAK)
    plain, chunked = (int(start(script, how).wait().stdout) for how in ("plain", "chunked"))
    assert plain > 2 * 2048 * 16384 * 4 / 1024, "the plain softmax must show up in the measurement"
    assert chunked < plain / 8, (chunked, plain)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_chunks_agree_with_the_definition(temperature):
    hidden, weight, targets, _ = problem()
    whole = losses.token_logps(hidden @ weight.T, targets, temperature)
    for got, want in zip(
        token_logps(hidden, weight, targets, temperature, chunk=5), whole, strict=True
    ):
        torch.testing.assert_close(got, want, atol=3e-6, rtol=1e-6)


def test_an_entropy_bonus_flattens_the_distribution():
    """The whole chain in float64's company: the bonus's gradient is that of the mean entropy."""
    hidden, weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4)
    targets = torch.zeros(6, dtype=torch.int64)
    probe = hidden.clone().requires_grad_()
    _, entropy = token_logps(probe, weight, targets)
    (-0.1 * entropy.mean()).backward()
    exact = hidden.double().requires_grad_()
    logs = torch.log_softmax(exact, dim=-1)
    (0.1 * (logs.exp() * logs).sum(dim=-1).mean()).backward()
    torch.testing.assert_close(probe.grad.double(), exact.grad, atol=1e-7, rtol=1e-4)
