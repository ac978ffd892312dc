"""metrics.py: what a step's numbers say of its update."""

import math
from types import SimpleNamespace

import pytest
import torch

import losses
from trainer.run.metrics import token_ratio_metrics


def diagnostics(new, old, advantages, clip_low, clip_high):
    micro = SimpleNamespace(new_logps_M=new.detach(), old_logps_M=old, advantages_M=advantages)
    return token_ratio_metrics(micro, clip_low, clip_high)


def test_diagnostics_tell_where_the_clip_stopped_the_gradient():
    generator = torch.Generator().manual_seed(2)
    logps = torch.randn(1000, generator=generator, dtype=torch.float64).mul(0.4).requires_grad_()
    old = torch.zeros(1000, dtype=torch.float64)
    advantages = torch.randn(1000, generator=generator, dtype=torch.float64)
    losses.clipped_policy_loss(logps, old, advantages, 0.2, 0.28).sum().backward()
    watched = diagnostics(logps, old, advantages, 0.2, 0.28)
    stopped = logps.grad == 0
    assert torch.equal(stopped & (advantages < 0), watched["clip_fraction_low"].bool())
    assert torch.equal(stopped & (advantages > 0), watched["clip_fraction_high"].bool())
    assert 0.05 < watched["clip_fraction_low"].mean() < 0.5
    assert 0.05 < watched["clip_fraction_high"].mean() < 0.5
    expected = [math.exp(d) - 1 - d for d in logps.tolist()]
    assert watched["approx_kl"].tolist() == pytest.approx(expected, abs=1e-12)
    assert not any(value.requires_grad for value in watched.values())


def test_diagnostics_of_absurd_ratios_are_finite():
    watched = diagnostics(torch.tensor([1e4, -1e4]), torch.zeros(2), torch.ones(2), 0.2, 0.2)
    assert all(torch.isfinite(value).all() for value in watched.values())
