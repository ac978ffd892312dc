"""policy.py: the gradient does not depend on the split, log-probs are the model's own, and what a
rank must not disturb.
"""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import load, random_rollouts, save_random_model
from transformers import AutoModelForCausalLM

import losses
from trainer.policy.loading import load_reference
from trainer.policy.policy import full, loss_weights, micro_batches, optimizer_step, response_mask
from trainer.policy.shared_prompts import PackedBatch, SharedPromptsPolicy, pack
from trainer.run.metrics import gradient_metrics, kl_metrics, token_mean, token_ratio_metrics

CPU = torch.device("cpu")
EVERYTHING = 1 << 30  # a budget that holds any mini-batch


def one_batch(rollouts, advantages=None, budget=EVERYTHING, how="token"):
    advantages = torch.ones(len(rollouts)) if advantages is None else advantages
    weights = losses.token_weights(response_mask(rollouts), how)
    return micro_batches(rollouts, advantages, weights, budget, CPU)


def loss_of(logps, engine_logps, advantages):
    """The recipes' loss of each token. The old log-probs are so far off that the clip acts."""
    old_logps = logps.detach() + 0.5 * torch.sin(1e3 * engine_logps)
    return losses.clipped_policy_loss(logps, old_logps, advantages, 0.2, 0.28, 10.0)


def backward(policy, batches, temperature=1.0):
    """The recipes' backward pass over one mini-batch."""
    for micro in batches:
        logps, _ = policy(micro, temperature)
        loss = loss_of(logps, micro.engine_logps_M, micro.advantages_M)
        (micro.weights_M * loss).sum().backward()


def gradient(policy):
    flat = torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])
    policy.zero_grad()
    return flat


def assert_same_gradient(got, want):
    assert want.norm() > 1e-3
    assert (got - want).norm() < 1e-5 * want.norm()  # float32 sums in another order


# --- the gradient of a mini-batch is one number, however it is cut ---


def plainly(model, rollout, temperature):
    """Log-probs of one response: one unpadded sequence, all logits, log_softmax."""
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.response_ids]])
    start = len(rollout.prompt_ids)
    log_probs = (model(input_ids=ids).logits[0, start - 1 : -1] / temperature).log_softmax(-1)
    return log_probs.gather(-1, ids[0, start:, None]).squeeze(-1)


@pytest.mark.parametrize("how", ["token", "sequence"])
def test_the_gradient_is_that_of_the_loss_written_plainly_however_it_is_cut(random_policy_dir, how):
    policy, rollouts = load(random_policy_dir), random_rollouts(13)
    ids = {i for rollout in rollouts for i in rollout.response_ids.tolist()}
    assert {0, 1} <= ids, "the padding's id and the eos are tokens like others"
    advantages = torch.randn(13, generator=torch.Generator().manual_seed(1))
    model = AutoModelForCausalLM.from_pretrained(random_policy_dir, dtype=torch.float64)
    total, tokens = 0.0, sum(len(r.response_ids) for r in rollouts)
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        logps = plainly(model, rollout, 0.7)
        weight = 1 / tokens if how == "token" else 1 / (13 * len(logps))
        total += weight * loss_of(logps, torch.tensor(rollout.logps), advantage).sum()
    total.backward()
    expected, counts = gradient(model).float(), []
    for budget in (EVERYTHING, 1, 20, 40, 90):
        batches = one_batch(rollouts, advantages, budget, how)
        backward(policy, batches, 0.7)
        assert_same_gradient(gradient(policy), expected)
        counts.append(len(batches))
    assert counts[:2] == [1, 13]  # everything at once, one sequence each
    assert len(set(counts)) == 5


RANKS = """
import json, sys, torch, torch.distributed
from pathlib import Path
from conftest import load, random_rollouts
from test_policy import one_update, some_groups
from trainer.policy.policy import MicroBatch
from trainer.ranks import gather, my_share, start_ranks
from trainer.run.launch import leave
from trainer.run.metrics import step_metrics
start_ranks(one_thread=True)
rank = torch.distributed.get_rank()
folder, cases, out = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
for number, (offload, *case) in enumerate(cases):
    found = one_update(load(folder, offload=offload), *case)
    counts = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(counts, found["counts"])
    if rank == 0:
        torch.save(found | {"counts": counts}, out / f"{number}.pt")
ones = torch.ones(rank + 1)
micro = MicroBatch(None, None, ones, ones, rank * ones, [], old_logps_M=0 * ones)
micro.new_logps_M = micro.entropy_M = micro.old_logps_M
optimizer = torch.optim.SGD([ones.requires_grad_()], lr=1)
found = step_metrics([random_rollouts(2)], [[micro]], [1.0], optimizer, (0.2, 0.2))
last = torch.distributed.get_world_size() - 1
assert found["logp_gap_max"] == last and abs(found["logp_gap"] - 2 * last / 3) < 1e-6, found
for groups in some_groups():
    again = gather(my_share(groups))
    assert [[vars(r) for r in group] for group in groups] == [[vars(r) for r in g] for g in again]
leave()
"""


class Array(np.ndarray):
    """An array that is equal to another as a whole."""

    def __eq__(self, other):
        return self.dtype == other.dtype and np.array_equal(self, other)


def some_groups():
    """Groups of rollouts to send round: many, of one and of several sizes, one, and none."""
    rollouts = random_rollouts(30)
    for i, r in enumerate(rollouts):
        r.text, r.right, r.reward, r.truncated = "aé∑😀\ud83d"[: i % 6], i / 7, -i / 3, i % 2 == 0
        for name in ("prompt_ids", "response_ids", "logps"):
            setattr(r, name, getattr(r, name).view(Array))
    rollouts[4].response_ids = rollouts[4].response_ids[:0]
    rollouts[4].logps = rollouts[4].logps[:0]
    pairs = [rollouts[i : i + 2] for i in range(0, 30, 2)]
    return pairs, [rollouts[:1], rollouts[1:9], rollouts[9:11]], pairs[:1], []


def one_update(policy, how, count, budget):
    """Update on one mini-batch of random rollouts: the whole gradient, its norm, the weights after
    it, and of this rank's micro-batches how many there are and how many are empty.
    """
    advantages = torch.randn(count, generator=torch.Generator().manual_seed(1))
    batches = one_batch(random_rollouts(count), advantages, budget, how)
    backward(policy, batches)
    grad = torch.cat([full(parameter.grad).flatten() for parameter in policy.parameters()])
    norm = optimizer_step(policy, torch.optim.SGD(policy.parameters(), lr=0.1), 1e9)
    state = {name: tensor.clone() for name, tensor in policy.full_state()}
    counts = len(batches), sum(len(micro.weights_M) == 0 for micro in batches)
    return {"grad": grad, "norm": norm, "state": state, "counts": counts}


def assert_same_update(got, want):
    assert_same_gradient(got["grad"], want["grad"])
    assert got["norm"] == pytest.approx(want["norm"], rel=1e-5)
    assert want["norm"] == pytest.approx(want["grad"].norm().item(), rel=1e-5)
    for name, tensor in want["state"].items():
        torch.testing.assert_close(got["state"][name], tensor, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        (2, [(False, "token", 13, 40), (True, "sequence", 13, 40), (True, "token", 1, EVERYTHING)]),
        (4, [(False, "sequence", 13, 20), (False, "token", 5, 1), (True, "sequence", 2, 20)]),
    ],
)
def test_no_number_of_ranks_changes_the_gradient(start, tmp_path, ranks, cases):
    folder, script = save_random_model(tmp_path / "model"), tmp_path / "ranks.py"
    script.write_text(RANKS)
    start(script, folder, json.dumps(cases), tmp_path, ranks=ranks).output()
    empties = 0
    for number, (_, how, count, _) in enumerate(cases):
        got = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        counts = got.pop("counts")
        assert_same_update(got, one_update(load(folder), how, count, EVERYTHING))
        assert len({number for number, _ in counts}) == 1, "ranks compute in step"
        empties += sum(empty for _, empty in counts)
    assert empties > 0, "some rank had nothing to do, and took part all the same"


def test_offloading_changes_no_update(random_policy_dir):
    offloaded = one_update(load(random_policy_dir, offload=True), "token", 13, 40)
    assert_same_update(offloaded, one_update(load(random_policy_dir), "token", 13, 40))


# --- micro-batches ---


def test_micro_batches_stay_within_the_budget_of_padded_tokens():
    rollouts = random_rollouts(40, longest=30)
    for budget in (36, 64, 200):
        batches = one_batch(rollouts, budget=budget)
        assert all(micro.ids_B_T.numel() <= budget for micro in batches)
        padded = sum(micro.ids_B_T.numel() for micro in batches)
        tokens = sum(len(r.prompt_ids) + len(r.response_ids) for r in rollouts)
        assert padded <= 1.25 * tokens
    # Too long for it: alone.
    assert max(micro.ids_B_T.shape[0] for micro in one_batch(rollouts, budget=5)) == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_samples_that_share_their_prompt_train_as_they_do_apart(random_policy_dir, checkpointing):
    policy = load(random_policy_dir, gradient_checkpointing=checkpointing)
    rollouts = random_rollouts(9, longest=30)
    assert isinstance(policy, SharedPromptsPolicy)
    for i, rollout in enumerate(rollouts):
        rollout.prompt_ids = rollouts[i - i % 4].prompt_ids
    advantages, weights = torch.arange(-4.0, 5.0), response_mask(rollouts) / 100
    found = []
    for budget, share in ((EVERYTHING, False), (EVERYTHING, True), (90, True), (5, True)):
        policy.budget = budget
        batches = policy.cut(rollouts, advantages, weights)
        assert all(isinstance(micro, PackedBatch) for micro in batches)
        if not share:
            batches = micro_batches(rollouts, advantages, weights, budget, CPU)
        backward(policy, batches, 0.8)
        found.append(gradient(policy))
    for grad in found[1:]:
        assert_same_gradient(grad, found[0])


def test_a_shared_prompt_is_computed_once_and_nothing_is_padded():
    rollouts = random_rollouts(6, longest=30)
    for rollout in rollouts:
        rollout.prompt_ids = rollouts[0].prompt_ids
    packed = pack(rollouts, torch.zeros(6), response_mask(rollouts).float())
    responses = sum(len(rollout.response_ids) for rollout in rollouts)
    assert packed.ids_1_N.shape == (1, len(rollouts[0].prompt_ids) + responses)
    assert len(packed.predicts_M) == responses
    standing = torch.cat([place_B_T.flatten() for place_B_T in packed.places])
    assert torch.equal(standing[packed.source_N], torch.arange(packed.ids_1_N.shape[1]))


# --- the optimizer's step ---


def norm_after(policy, rollouts):
    backward(policy, one_batch(rollouts))
    return torch.cat([p.grad.flatten() for p in policy.parameters()]).norm().item()


def test_the_gradient_is_clipped_to_the_global_norm(random_policy_dir):
    policy, rollouts = load(random_policy_dir), random_rollouts(6)
    norm = norm_after(policy, rollouts)
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    assert optimizer_step(policy, optimizer, norm / 2) == pytest.approx(norm, rel=1e-5)
    moved = [(p - q).flatten() for p, q in zip(policy.parameters(), before, strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(norm / 2, rel=1e-3)
    assert all(p.grad is None for p in policy.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_gradient_is_skipped_and_told(random_policy_dir, bad):
    policy, rollouts = load(random_policy_dir), random_rollouts(6)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    norm_after(policy, rollouts)
    healthy = optimizer_step(policy, optimizer, 1.0)
    before = [p.detach().clone() for p in policy.parameters()]
    moments = {k: v.clone() for k, v in optimizer.state[next(policy.parameters())].items()}

    norm_after(policy, rollouts)
    list(policy.parameters())[3].grad.view(-1)[0] = bad
    skipped = optimizer_step(policy, optimizer, 1.0)
    assert not math.isfinite(skipped)
    assert all(torch.equal(p, q) for p, q in zip(policy.parameters(), before, strict=True))
    kept = optimizer.state[next(policy.parameters())]
    assert all(torch.equal(kept[k], v) for k, v in moments.items())
    assert all(p.grad is None for p in policy.parameters())
    expected = {"grad_norm": pytest.approx(healthy), "skipped_updates": 1}
    assert gradient_metrics([healthy, skipped]) == expected

    norm_after(policy, rollouts)
    assert math.isfinite(optimizer_step(policy, optimizer, 1.0))  # and goes on
    assert not all(torch.equal(p, q) for p, q in zip(policy.parameters(), before, strict=True))


# --- loading and sharing ---


def test_master_weights_are_float32_whatever_is_on_disk(tmp_path):
    folder = save_random_model(tmp_path / "model")
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    assert {p.dtype for p in load(tmp_path / "half").parameters()} == {torch.float32}
    reference = load_reference(folder, CPU)
    assert {p.dtype for p in reference.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in reference.parameters())


def test_a_whole_state_goes_in_and_out_and_a_foreign_one_is_refused(tmp_path):
    one, other = (load(save_random_model(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    other.load_full_state({name: tensor.clone() for name, tensor in one.full_state()})
    state, copied = dict(one.full_state()), dict(other.full_state())
    assert state.keys() == copied.keys()
    assert all(torch.equal(tensor, copied[name]) for name, tensor in state.items())
    assert "lm_head.weight" in state, "a tied head too, for engines that hold it apart"
    del state["model.norm.weight"]
    with pytest.raises(ValueError, match=r"model\.norm\.weight is missing"):
        other.load_full_state(state)


# --- what a step's numbers say of its update ---


def test_approx_kl_estimates_the_kl_from_old_to_new_and_absurd_ratios_are_finite():
    new = torch.tensor([0.3, -0.5, 0.0, 1e4, -1e4])
    micro = SimpleNamespace(new_logps_M=new, old_logps_M=0 * new, advantages_M=torch.ones(5))
    watched = token_ratio_metrics(micro, 0.2, 0.2)
    expected = [math.exp(d) - 1 - d for d in (0.3, -0.5, 0.0, 20, -20)]
    assert watched["approx_kl"].tolist() == pytest.approx(expected, rel=1e-5)
    assert all(torch.isfinite(value).all() for value in watched.values())


def test_a_cap_above_0_multiplies_a_token_s_weight_by_its_importance():
    engine, weights = torch.zeros(2), torch.tensor([0.5, 0.25])
    micro = SimpleNamespace(weights_M=weights, engine_logps_M=engine, raw_logps_M=None)
    micro.old_logps_M = torch.tensor([-1.0, 1.0])
    assert loss_weights(micro, 0.0) is weights
    assert loss_weights(micro, 2.0).tolist() == pytest.approx([0.5 * math.exp(-1), 0.25 * 2])
    micro.raw_logps_M = engine  # the engine's are raw: so are the trainer's beside them
    assert loss_weights(micro, 2.0).tolist() == [0.5, 0.25]


def test_the_share_of_a_kl_penalty_in_the_loss():
    logps, ref = torch.zeros(2), torch.tensor([0.5, 0.5])
    micro = SimpleNamespace(new_logps_M=logps, old_logps_M=logps, ref_logps_M=ref)
    micro.advantages_M = torch.tensor([1.0, -3.0])
    config = SimpleNamespace(clip_low=0.2, clip_high=0.2, kl_coefficient=2.0, kl_estimator="k3")
    kl = math.exp(0.5) - 1.5
    expected = {"kl": kl, "kl_loss_share": 2 * kl / (2 * kl + 2)}
    assert kl_metrics(config, [[micro]]) == pytest.approx(expected)


def test_a_token_mean_does_not_depend_on_the_micro_batches():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    expected = pytest.approx(values.double().mean().item(), rel=1e-9)
    assert token_mean([values]) == expected
    assert token_mean([values[:1], values[1:33], values[:0], values[33:]]) == expected
