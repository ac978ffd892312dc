"""The model in training: log-probs of responses, micro-batches, the optimizer.

Suffixes: see losses.py.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from losses import truncated_importance
from trainer.data import Rollout
from trainer.errors import Refused
from trainer.policy.logps import Head

# The cost of one more micro-batch, in padded tokens: split only if that saves more padding. On a
# CPU it is a little Python. On a GPU it launches every kernel again, and several ranks gather every
# weight again.
CUT_COST = {"cpu": 128, "one GPU": 1024, "GPUs": 2048}

# Two tokens without a response, for a rank that has no sequence left when others have.
NOTHING = Rollout(np.zeros(2, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), False)


# --- micro-batches ---


@dataclass
class MicroBatch:
    """A few sequences in one right-padded rectangle, and what the loss needs for their M tokens.

    The loop sets the log-probs and the entropy, which are None at first.
    """

    ids_B_T: torch.Tensor  # int64, prompt + response + padding
    mask_B_T: torch.Tensor  # bool, True at response tokens; from lengths: eos may equal the padding
    advantages_M: torch.Tensor
    weights_M: torch.Tensor  # of the token in the loss of its global mini-batch
    engine_logps_M: torch.Tensor  # as the sampling engine reported them
    rollouts: list[Rollout] = field(default_factory=list)  # its rows; _M has their tokens in order
    last: bool = False  # of its mini-batch: after it the ranks' gradients are added up
    old_logps_M: torch.Tensor | None = None  # the trainer's own, before the first update
    entropy_M: torch.Tensor | None = None  # of the policy that old_logps_M belong to
    new_logps_M: torch.Tensor | None = None  # from the update pass, for the metrics
    ref_logps_M: torch.Tensor | None = None  # the reference policy's, for a KL penalty
    raw_logps_M: torch.Tensor | None = None  # at temperature 1, if the engine reports those


def loss_weights(micro: MicroBatch, tis_cap: float) -> torch.Tensor:
    """The weight of each token in the loss [M]: micro.weights_M.

    With a cap above 0, which no paper here uses, it is multiplied by losses.truncated_importance.
    That corrects the whole loss for an engine whose probabilities differ from the trainer's.
    """
    if not tis_cap:
        return micro.weights_M
    trainer_logps_M = micro.old_logps_M if micro.raw_logps_M is None else micro.raw_logps_M
    return micro.weights_M * truncated_importance(trainer_logps_M, micro.engine_logps_M, tis_cap)


def response_mask(rollouts: list[Rollout]) -> torch.Tensor:
    """bool [B, R]: True at the positions of each response; R is the length of the longest."""
    lengths_B_1 = torch.tensor([len(rollout.response_ids) for rollout in rollouts])[:, None]
    return torch.arange(int(lengths_B_1.max())) < lengths_B_1


def response_means(micro: MicroBatch, values_M: torch.Tensor) -> torch.Tensor:
    """The mean of each response's values, at every token of it: [M]."""
    lengths = [len(rollout.response_ids) for rollout in micro.rollouts]
    means = [value.mean().expand_as(value) for value in values_M.split(lengths)]
    return torch.cat(means) if means else values_M


def equal_slices(count: int, parts: int) -> list[slice]:
    """range(count) cut into at most `parts` slices of equal size; the last may be shorter."""
    size = math.ceil(count / parts)
    return [slice(start, start + size) for start in range(0, count, size)]


def rectangle(
    rollouts: list[Rollout],
    advantages_B: torch.Tensor,
    weights_B_R: torch.Tensor,
    device: torch.device,
) -> MicroBatch:
    """One micro-batch of all these rollouts; see micro_batches. The list may be empty."""
    if not rollouts:
        rollouts, advantages_B, weights_B_R = [NOTHING], torch.zeros(1), torch.zeros(1, 0)
    ids_B = [torch.from_numpy(np.concatenate([r.prompt_ids, r.response_ids])) for r in rollouts]
    mask_B = [
        torch.arange(len(r.prompt_ids) + len(r.response_ids)) >= len(r.prompt_ids) for r in rollouts
    ]
    mask_B_R = response_mask(rollouts)
    return MicroBatch(
        # The padding may be any id: no real token sees it (Policy.hidden).
        ids_B_T=pad_sequence(ids_B, batch_first=True).long().to(device),
        mask_B_T=pad_sequence(mask_B, batch_first=True).to(device),
        advantages_M=advantages_B.float().repeat_interleave(mask_B_R.sum(dim=1)).to(device),
        weights_M=weights_B_R[:, : mask_B_R.shape[1]][mask_B_R].to(device),
        engine_logps_M=torch.from_numpy(np.concatenate([r.logps for r in rollouts])).to(device),
        rollouts=rollouts,
    )


def micro_batches(
    rollouts: list[Rollout],
    advantages_B: torch.Tensor,
    weights_B_R: torch.Tensor,
    budget: int,
    device: torch.device,
) -> list[MicroBatch]:
    """Cut one global mini-batch into this rank's micro-batches.

    advantages_B: of each response. weights_B_R: from losses.token_weights, over response positions.
    budget: padded tokens of one micro-batch; a longer sequence gets one to itself.

    The sequences are sorted by length, dealt to the ranks round robin, so that all have equal work,
    and cut where that saves most padding. All ranks get equally many micro-batches, some perhaps
    empty, because FSDP needs every rank in each pass.
    """
    length_B = [len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts]
    longest_first = sorted(range(len(rollouts)), key=lambda i: -length_B[i])
    world = dist.get_world_size()
    cost = CUT_COST["cpu" if device.type == "cpu" else "one GPU" if world == 1 else "GPUs"]
    cuts_by_rank = []
    for share in (longest_first[rank::world] for rank in range(world)):
        cuts = cut_rectangles([length_B[i] for i in share], cost, budget)
        cuts_by_rank.append([share[cut] for cut in cuts])
    cuts = cuts_by_rank[dist.get_rank()]
    cuts += [[]] * (max(map(len, cuts_by_rank)) - len(cuts))
    micros = [
        rectangle([rollouts[i] for i in rows], advantages_B[rows], weights_B_R[rows], device)
        for rows in cuts
    ]
    micros[-1].last = True
    return micros


def cut_rectangles(lengths: list[int], cut_cost: int, budget: float = float("inf")) -> list[slice]:
    """Cut rows of these lengths, longest first, into rectangles within the budget at least cost.

    The cost is the number of padded tokens plus cut_cost for each rectangle, whose first row sets
    the width. By dynamic programming: best[end] is the least cost of the first `end` rows, and
    where their last rectangle begins.
    """
    best = [(0, 0)]
    for end in range(1, len(lengths) + 1):
        options = []
        for start in reversed(range(end)):
            area = (end - start) * lengths[start]
            if options and area > budget:
                break
            options.append((best[start][0] + area + cut_cost, start))
        best.append(min(options))
    cuts, end = [], len(lengths)
    while end:
        _, start = best[end]
        cuts.append(slice(start, end))
        end = start
    return cuts[::-1]


# --- the model ---


class Policy(nn.Module):
    """A causal language model whose forward pass returns log-probs and entropy, never logits.

    It is a module and not a function because under FSDP the head's weight is whole only inside the
    root module's forward pass. loading.py makes one.

    device: of the micro-batches. With --offload the weights are in host memory.
    budget: tokens of one micro-batch, see micro_batches.
    """

    def __init__(self, model: nn.Module, head: Head, device: torch.device, budget: int):
        super().__init__()
        self.model, self.head, self.device, self.budget = model, head, device, budget

    def forward(self, micro: MicroBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probs [M], entropy [M]) of the micro-batch's M response tokens, in nats.

        Both are those at the sampling temperature, and both carry gradients.
        """
        targets_M = micro.ids_B_T[micro.mask_B_T]
        return self.head.logps(self.hidden(micro), targets_M, temperature)

    def hidden(self, micro: MicroBatch) -> torch.Tensor:
        """The head's input [M, d] at the positions that predict the response tokens.

        There is no attention mask: under causal attention no real token sees the padding to its
        right, and without a mask torch uses its flash kernel.
        """
        predicts_B_T = micro.mask_B_T[:, 1:]  # position t predicts token t + 1
        return self.head.inputs(self.model, micro.ids_B_T)[:, :-1][predicts_B_T]

    def cut(
        self, rollouts: list[Rollout], advantages_B: torch.Tensor, weights_B_R: torch.Tensor
    ) -> list[MicroBatch]:
        """This rank's micro-batches of one global mini-batch; see micro_batches."""
        return micro_batches(rollouts, advantages_B, weights_B_R, self.budget, self.device)

    def full_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, whole tensor). Under FSDP every rank must walk it to the end."""
        for name, tensor in self.model.state_dict().items():
            yield name, full(tensor)

    def load_full_state(self, state: dict[str, torch.Tensor] | None) -> None:
        """Copy full tensors in, by name. On ranks above 0 of a sharded policy, state is None.

        Raises Refused if a name is missing on either side.
        """
        own = self.model.state_dict()
        if state is not None and (missing := sorted(own.keys() ^ state.keys())):
            raise Refused(f"the weights do not fit the model: {missing[0]} is missing on one side")
        for name, tensor in own.items():
            copy_full(tensor, None if state is None else state[name])

    def copy_from(self, other: "Policy") -> None:
        """Take the weights of another policy of the same model, one tensor after the other."""
        own = self.model.state_dict()
        for name, whole in other.full_state():
            copy_full(own[name], whole)


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether FSDP has made it a DTensor. Importing that class would take more than a second."""
    return hasattr(tensor, "device_mesh")


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor, also of one that FSDP has sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


@torch.no_grad()
def copy_full(target: torch.Tensor, whole: torch.Tensor | None) -> None:
    """Copy a full tensor into one that FSDP may have sharded.

    If the target is sharded, rank 0's tensor is used, and the other ranks may pass None.
    """
    if is_sharded(target):
        from torch.distributed.tensor import distribute_tensor

        mesh = target.device_mesh
        if whole is None:
            whole = torch.empty(target.shape, dtype=target.dtype, device=mesh.device_type)
        whole = whole.to(mesh.device_type, target.dtype)
        whole = distribute_tensor(whole, mesh, target.placements)
    target.copy_(whole)


@contextmanager
def on_device(policy: Policy) -> Iterator[Policy]:
    """Move a policy from host memory to its device for a `with` block.

    The copy on the device is dropped at the end. The one in host memory is not changed.
    """
    in_host_memory = {x: x.data for x in (*policy.parameters(), *policy.buffers())}
    for tensor, data in in_host_memory.items():
        tensor.data = data.to(policy.device)
    try:
        yield policy
    finally:
        for tensor, data in in_host_memory.items():
            tensor.data = data


# --- the optimizer ---


def make_optimizer(policy: Policy, weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW, which reads and writes each number once."""
    return torch.optim.AdamW(policy.parameters(), weight_decay=weight_decay, fused=True)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, rate: float, step: int, warmup_steps: int
) -> None:
    """Constant after a linear warm-up. Warm-up starts at 0, so its first step changes no weight.

    Raises ValueError if parameter groups have rates of their own.
    """
    if len({group["lr"] for group in optimizer.param_groups}) > 1:
        raise ValueError("parameter groups have rates of their own: set each group['lr'] yourself")
    if step <= warmup_steps:
        rate *= (step - 1) / warmup_steps
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_step(policy: Policy, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """Clip the gradient to a global norm, step, and clear it. Returns the norm before clipping.

    If the gradient is not finite, the weights are not changed; the caller counts such updates.
    """
    norm = float(full(torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)))
    if math.isfinite(norm):
        optimizer.step()
    policy.zero_grad()  # also of parameters that the optimizer was not given
    return norm
