"""lab/techniques.py: the formulas behind the systems of Table 1."""

import itertools
import statistics
from types import SimpleNamespace

import pytest
import torch

from lab import techniques
from lab.table1 import Config

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
    seen = techniques.pass_at_k_advantages(torch.tensor(groups), k)
    expected = torch.tensor([by_sets(group, k) for group in groups], dtype=torch.float64)
    torch.testing.assert_close(seen.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(seen.sum(dim=1), torch.zeros(7), atol=1e-5, rtol=0)


def test_maxrl_advantages():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0] * 4, [0.3] * 4])
    expected = [[3.0, -1, -1, -1], [1 / 3, 1 / 3, 1 / 3, -1], [0.0] * 4, [0.0] * 4]
    torch.testing.assert_close(techniques.maxrl_advantages(rewards), torch.tensor(expected))
    with pytest.raises(ValueError, match="at least 0"):
        techniques.maxrl_advantages(torch.tensor([[1.0, -1.0]]))


def test_normalize_over_tokens_against_one_entry_a_token():
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(5, 4, generator=generator)
    lengths = torch.randint(0, 30, (5, 4), generator=generator)
    seen = techniques.normalize_over_tokens(values, lengths)
    tokens = values.double().flatten().repeat_interleave(lengths.flatten())
    expected = (values.double() - tokens.mean()) / tokens.var(correction=0).sqrt()
    torch.testing.assert_close(seen.double(), expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(seen, (values - values.mean()) / values.std(), atol=0.05)


@pytest.mark.parametrize("length", [0, 7])
def test_normalize_over_tokens_of_nothing_and_of_equals_is_zero(length):
    seen = techniques.normalize_over_tokens(
        torch.full((2, 3), 0.25), torch.full((2, 3), length, dtype=torch.int64)
    )
    torch.testing.assert_close(seen, torch.zeros(2, 3), atol=1e-6, rtol=0)


def test_reinforce_is_the_clipped_loss_s_gradient_at_ratio_one_and_knows_no_clip_elsewhere():
    logps = torch.tensor([-1.0, -0.2, -3.0], requires_grad=True)
    values = torch.tensor([1.5, -0.5, 2.0])
    micro = SimpleNamespace(advantages_M=values, old_logps_M=logps.detach())
    gradients = [
        torch.autograd.grad(techniques.policy_loss(logps, micro, Config(loss=loss)).sum(), logps)[0]
        for loss in ("reinforce", "clip")
    ]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(gradients[0], -values)


def test_icepop_drops_what_truncation_caps():
    config = Config(icepop_low=0.5 - 1e-6, icepop_high=5.0 + 1e-6)
    logps = torch.tensor([0.4, 0.5, 1.0, 5.0, 5.1]).log().requires_grad_()
    micro = SimpleNamespace(old_logps_M=logps, engine_logps_M=torch.zeros(5))
    seen = techniques.icepop_importance(micro, config)
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.5, 1.0, 5.0, 0.0]))
    assert not seen.requires_grad
    micro.old_logps_M = torch.full((5,), 500.0)
    assert not techniques.icepop_importance(micro, config).any()
