"""logps.py: log-probs and entropies of chunks are those of all logits, and so are the gradients."""

import re
from pathlib import Path

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


def weighted_sum(coefficients, outputs, entropy_grad):
    terms = [(c * x).sum() for c, x in zip(coefficients, outputs, strict=True)]
    return sum(terms if entropy_grad else terms[:1])


def plainly(leaves, targets, temperature, scale=1.0, softcap=None):
    """Log-probs and entropies of a head's (hidden, weight, perhaps bias), from all logits."""
    hidden, weight, *bias = leaves
    logits = scale * (hidden @ weight.T + sum(bias))
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    log_probs = (logits / temperature).log_softmax(dim=-1)
    return log_probs[torch.arange(M), targets], torch.special.entr(log_probs.exp()).sum(-1)


@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.0625, 1.5])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("temperature", "chunk"), [(1.0, 5), (0.6, 1), (1.2, 1024), (0.7, M)])
def test_token_logps_values_and_gradients(
    temperature, chunk, with_bias, scale, softcap, entropy_grad
):
    hidden, weight, targets, coefficients = problem()
    bias = torch.randn(V, generator=torch.Generator().manual_seed(5)) if with_bias else None
    leaves = [leaf.requires_grad_() for leaf in (hidden, weight, bias) if leaf is not None]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = plainly(doubles, targets, temperature, scale, softcap)
    outputs = token_logps(hidden, weight, targets, temperature, bias, scale, softcap, chunk)
    for pair in (wanted, outputs):
        weighted_sum(coefficients, pair, entropy_grad).backward()
    for got, want in zip(outputs, wanted, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.detach().double(), want.detach(), atol=3e-5, rtol=1e-5)
    for got, want in zip(leaves, doubles, strict=True):
        torch.testing.assert_close(got.grad.double(), want.grad, atol=3e-5, rtol=1e-5)


def test_bfloat16_head_float32_softmax():
    hidden, weight, targets, coefficients = problem(torch.bfloat16)
    doubles = [leaf.double().requires_grad_() for leaf in (hidden, weight)]
    wanted = plainly(doubles, targets, 1.2)
    hidden.requires_grad_(), weight.requires_grad_()
    outputs = token_logps(hidden, weight, targets, 1.2, chunk=4)
    for got, want in zip(outputs, wanted, strict=True):
        assert got.dtype == torch.float32
        # A bf16 logit of size up to 16 is off by at most 2^-5; the softmax adds nothing of its own.
        torch.testing.assert_close(got.detach().double(), want.detach(), atol=2**-4, rtol=0)
    for pair in (wanted, outputs):
        weighted_sum(coefficients, pair, entropy_grad=False).backward()
    for got, want in zip((hidden, weight), doubles, strict=True):
        assert got.grad.dtype == torch.bfloat16
        assert (got.grad.double() - want.grad).norm() < 0.02 * want.grad.norm()


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


def high_water() -> int:
    """The most memory that this process has held since the last reset, in kB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def test_memory_stays_under_an_eighth_of_the_plain_softmax():
    M, d, V = 2048, 64, 16384
    hidden, weight = torch.randn(M, d, requires_grad=True), torch.randn(V, d, requires_grad=True)
    targets, grown = torch.randint(0, V, (M,)), []
    for compute in (
        lambda hidden, targets: losses.token_logps(hidden @ weight.T, targets),
        lambda hidden, targets: token_logps(hidden, weight, targets, chunk=64),
    ):
        compute(hidden[:8], targets[:8])[0].sum().backward()  # load what is loaded lazily
        Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew, at what is held now
        before = high_water()
        compute(hidden, targets)[0].sum().backward()
        grown.append(high_water() - before)
    assert grown[0] > 2 * M * V * 4 / 1024, "the plain softmax must show up in the measurement"
    assert grown[1] < grown[0] / 8, grown


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_chunks_agree_with_the_definition(temperature):
    hidden, weight, targets, _ = problem()
    whole = losses.token_logps(hidden @ weight.T, targets, temperature)
    for got, want in zip(
        token_logps(hidden, weight, targets, temperature, chunk=5), whole, strict=True
    ):
        torch.testing.assert_close(got, want, atol=3e-6, rtol=1e-6)
