"""The model in training: log-probs of responses, sharding, micro-batches, the optimizer.

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
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from losses import truncated_importance
from trainer.data import Rollout
from trainer.errors import Refused
from trainer.policy.logps import Head
from trainer.policy.pretrained import blocks_of, checkpoint_activations, load_model
from trainer.policy.shared_prompts import Packed, cut_rectangles, pack, share_prompts

# The cost of one more micro-batch, in padded tokens: split only if that saves more padding. It is a
# little Python on a CPU. On a GPU every kernel is launched again, and with several ranks every
# weight is gathered again.
CUT_COST = {"cpu": 128, "one GPU": 1024, "GPUs": 2048}

# The ranks' gradients are added up once an update instead of once a micro-batch if what that takes,
# 4 bytes a parameter on every rank, is at most this share of a GPU.
REDUCE_ONCE = 0.1


# --- the model ---


class Policy(nn.Module):
    """A causal language model whose forward pass returns log-probs and entropy, never logits.

    It is a module and not a function because under FSDP the head's weight is whole only inside the
    root module's forward pass.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.head = Head(model)
        self.entropy_grad = False  # whether the entropy carries a gradient, for a bonus in the loss
        self.shares_prompts = False  # whether it computes the tokens of micro.packed, if given

    def forward(self, micro: "MicroBatch", temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probs [M], entropy [M]) of the micro-batch's M response tokens, in nats.

        Both are those at the sampling temperature.

        There is no attention mask: under causal attention no real token sees the padding to its
        right, and without a mask torch takes its flash kernel.
        """
        ids_B_T, mask_B_T = micro.ids_B_T, micro.mask_B_T
        predicts_B_T = mask_B_T[:, 1:]  # position t predicts token t + 1
        targets_M = ids_B_T[:, 1:][predicts_B_T]
        if self.shares_prompts and (packed := micro.packed) is not None:
            hidden_1_N_d = self.head.inputs(self.model, packed.ids_1_N, **packed.options())
            hidden_M_d = nn.functional.embedding(packed.predicts_M, hidden_1_N_d[0])
        else:
            hidden_M_d = self.head.inputs(self.model, ids_B_T)[:, :-1][predicts_B_T]
        return self.head.logps(hidden_M_d, targets_M, temperature, self.entropy_grad)

    def full_state(self):
        """Yield (name, whole tensor). Under FSDP every rank must walk it to the end."""
        for name, tensor in self.model.state_dict().items():
            yield name, full(tensor)

    def load_full_state(self, state: dict[str, torch.Tensor] | None) -> None:
        """Copy whole tensors in, by name. None on ranks above 0 of a sharded policy: take rank 0's.

        Raises Refused when names are missing or too many.
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


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that FSDP may have sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_full(target: torch.Tensor, whole: torch.Tensor | None) -> None:
    """Copy a whole tensor into one that FSDP may have sharded. Then rank 0's alone is looked at."""
    if isinstance(target, DTensor):
        mesh = target.device_mesh
        if whole is None:
            whole = torch.empty(target.shape, dtype=target.dtype, device=mesh.device_type)
        whole = whole.to(mesh.device_type, target.dtype)
        whole = distribute_tensor(whole, mesh, target.placements)
    target.copy_(whole)


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_reference(model_dir: str, dtype: torch.dtype) -> Policy:
    """A frozen policy of that dtype in host memory. Move it to the device only to use it."""
    model = load_model(model_dir, dtype)
    policy = Policy(model).requires_grad_(False)
    policy.shares_prompts = dtype == torch.float32 and share_prompts(model)
    return policy


@contextmanager
def on_device(policy: Policy, device: torch.device) -> Iterator[Policy]:
    """Have a policy that waits in host memory on the device for the length of a `with` block.

    The copy on the device is dropped at the end; the one in host memory stays where it is.
    """
    tensors = [*policy.parameters(), *policy.buffers()]
    in_host_memory = [tensor.data for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.to(device)
    try:
        yield policy
    finally:
        for tensor, data in zip(tensors, in_host_memory, strict=True):
            tensor.data = data


def load_policy(
    model_dir: str,
    device: torch.device,
    dtype: torch.dtype,
    gradient_checkpointing: bool,
    offload: bool = False,
) -> Policy:
    """A policy to train: float32 master weights, computing in dtype.

    At a learning rate of 1e-6, bfloat16 master weights would swallow the updates. The policy is
    sharded by FSDP2 where there are several ranks, and on CUDA also for one, for its mixed
    precision. Only rank 0 reads the model.

    offload: keep weights, gradients and the optimizer's state in host memory, where the optimizer
    then works too. The device holds the layer that it computes with.

    On a CPU, in one process, the samples of a prompt share it where the model can: see
    shared_prompts.py.
    """
    model = _load_on_rank_0(model_dir)
    policy = Policy(model)
    if gradient_checkpointing:
        checkpoint_activations(model)
    policy.head.check(model)
    if device.type == "cpu" and dist.get_world_size() == 1 and not offload:
        policy.shares_prompts = share_prompts(model)
        return policy
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    place = CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy()
    for module in [*blocks_of(model), policy]:
        _take_weights_of_rank_0(module, device)
        fully_shard(module, mp_policy=precision, offload_policy=place)
        # Token weights are global, so the ranks' gradients add up instead of being averaged.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction
    return policy


def _load_on_rank_0(model_dir: str):
    """The model in float32 on rank 0. On the others the same modules, without any memory."""
    if dist.get_world_size() == 1:
        return load_model(model_dir, torch.float32)
    model, kind = None, [None, None]
    if dist.get_rank() == 0:
        model = load_model(model_dir, torch.float32)
        kind = [type(model), model.config]
    dist.broadcast_object_list(kind, src=0, device=torch.device("cpu"))
    if model is None:
        model_class, config = kind
        with torch.device("meta"):
            model = model_class(config).eval()
    return model


def _take_weights_of_rank_0(module: nn.Module, device: torch.device) -> None:
    """Give a module rank 0's weights and buffers, on the device; what is sharded already stays.

    Called module by module, so that no rank but 0 ever holds more than one of them whole.
    """
    if dist.get_world_size() == 1:
        return
    filled = {}  # a tied tensor is met twice and stays one
    for part in module.modules():
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        for name, tensor in own:
            if isinstance(tensor, DTensor):
                continue
            if tensor not in filled:
                whole = torch.empty_like(tensor, device=device, requires_grad=False)
                if dist.get_rank() == 0:
                    whole = tensor.detach().to(device)
                dist.broadcast(whole, src=0)
                trained = isinstance(tensor, nn.Parameter)
                filled[tensor] = nn.Parameter(whole, tensor.requires_grad) if trained else whole
            setattr(part, name, filled[tensor])


# --- micro-batches ---


@dataclass
class MicroBatch:
    """A few sequences in one right-padded rectangle, and what the loss needs of their M tokens.

    The loop fills in the log-probs that default to None.
    """

    ids_B_T: torch.Tensor  # int64, prompt + response + padding
    mask_B_T: torch.Tensor  # bool, True at response tokens; from lengths: eos may equal the padding
    advantages_M: torch.Tensor
    weights_M: torch.Tensor  # of the token in the loss of its global mini-batch
    engine_logps_M: torch.Tensor  # as the sampling engine reported them
    rollouts: list[Rollout] = field(default_factory=list)  # its rows; their tokens lie end to end
    packed: Packed | None = None  # the same sequences for a policy that shares prompts
    old_logps_M: torch.Tensor | None = None  # the trainer's own, before the first update
    entropy_M: torch.Tensor | None = None  # of the policy that old_logps_M belong to
    new_logps_M: torch.Tensor | None = None  # those of the update, for the metrics
    ref_logps_M: torch.Tensor | None = None  # the reference policy's, for a KL penalty
    raw_logps_M: torch.Tensor | None = None  # the trainer's at temperature 1, if the engine's are

    def keep(self, logps_M: torch.Tensor, entropy_M: torch.Tensor) -> None:
        """Remember an update's log-probs. They are the old ones too where no update came before."""
        self.new_logps_M = logps_M.detach()
        if self.old_logps_M is None:
            self.old_logps_M, self.entropy_M = self.new_logps_M, entropy_M.detach()

    def importance_M(self, cap: float) -> torch.Tensor | float:
        """Weights against engine mismatch, see losses.truncated_importance; 1 if cap is 0: off."""
        if not cap:
            return 1.0
        logps_M = self.old_logps_M if self.raw_logps_M is None else self.raw_logps_M
        return truncated_importance(logps_M, self.engine_logps_M, cap)


def response_mask(rollouts: list[Rollout]) -> torch.Tensor:
    """bool [B, R]: True at the positions of each response; R is the length of the longest."""
    lengths_B_1 = torch.tensor([len(rollout.response_ids) for rollout in rollouts])[:, None]
    return torch.arange(int(lengths_B_1.max())) < lengths_B_1


def equal_slices(count: int, parts: int) -> list[slice]:
    """range(count) cut into at most `parts` slices of equal size; the last may be shorter."""
    size = math.ceil(count / parts)
    return [slice(start, start + size) for start in range(0, count, size)]


def micro_batches(
    rollouts: list[Rollout],
    advantages_B: torch.Tensor,
    weights_B_R: torch.Tensor,
    *,
    budget: int,
    device: torch.device,
    policy: Policy | None = None,
) -> list[MicroBatch]:
    """Cut one global mini-batch into this rank's micro-batches.

    advantages_B: of each response. weights_B_R: from losses.token_weights, over response positions.
    budget: padded tokens of one micro-batch; a longer sequence gets one to itself.
    policy: where it shares prompts, on one rank, the micro-batches are packed for it. The sequences
        keep their order, in which the samples of a prompt stand together, and no padding counts.

    Otherwise the sequences are sorted by length and cut where that saves most padding. They are
    dealt round robin, so that ranks get equal work. All ranks get equally many micro-batches, some
    perhaps empty, because FSDP's ranks compute in step.
    """
    length_B = [len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts]
    packed = policy is not None and policy.shares_prompts
    if packed:
        cuts, empty = _fill(length_B, budget), []
    else:
        longest_first = sorted(range(len(rollouts)), key=lambda i: -length_B[i])
        world = dist.get_world_size()
        cost = CUT_COST["cpu" if device.type == "cpu" else "one GPU" if world == 1 else "GPUs"]
        cuts_by_rank = [
            cut_rectangles(longest_first[rank::world], length_B, cost, budget)
            for rank in range(world)
        ]
        cuts = cuts_by_rank[dist.get_rank()]
        empty = [[]] * (max(map(len, cuts_by_rank)) - len(cuts))
    micros = [
        rectangle([rollouts[i] for i in rows], advantages_B[rows], weights_B_R[rows], device)
        for rows in cuts + empty
    ]
    for micro in micros:
        micro.packed = pack(micro.rollouts, device) if packed else None
    return micros


def _fill(length_B: list[int], budget: int) -> list[list[int]]:
    """Cut the rows, in their order, where the next one would exceed the budget."""
    cuts, room = [], 0
    for row, length in enumerate(length_B):
        if not cuts or length > room:
            cuts.append([])
            room = budget
        cuts[-1].append(row)
        room -= length
    return cuts


def rectangle(rollouts, advantages_B, weights_B_R, device) -> MicroBatch:
    """One micro-batch of all these rollouts; see micro_batches."""
    width = max((len(r.prompt_ids) + len(r.response_ids) for r in rollouts), default=2)
    # The padding may be any id: no real token sees it (Policy.forward).
    ids_B_T = torch.zeros(max(len(rollouts), 1), width, dtype=torch.int64)
    mask_B_T = torch.zeros_like(ids_B_T, dtype=torch.bool)
    for row, rollout in enumerate(rollouts):
        start, end = len(rollout.prompt_ids), len(rollout.prompt_ids) + len(rollout.response_ids)
        ids_B_T[row, :start] = torch.as_tensor(rollout.prompt_ids)
        ids_B_T[row, start:end] = torch.as_tensor(rollout.response_ids)
        mask_B_T[row, start:end] = True
    lengths_B = torch.tensor([len(rollout.response_ids) for rollout in rollouts], dtype=torch.int64)
    tokens_B_R = torch.arange(weights_B_R.shape[1]) < lengths_B[:, None]
    logps = [np.asarray(rollout.logps, dtype=np.float32) for rollout in rollouts]
    return MicroBatch(
        ids_B_T=ids_B_T.to(device),
        mask_B_T=mask_B_T.to(device),
        advantages_M=advantages_B.float().repeat_interleave(lengths_B).to(device),
        weights_M=weights_B_R[tokens_B_R].to(device),
        engine_logps_M=torch.from_numpy(np.concatenate(logps or [np.zeros(0, np.float32)])).to(
            device
        ),
        rollouts=rollouts,
    )


def reduced_once(policy: Policy, minibatch: list[MicroBatch]) -> Iterator[MicroBatch]:
    """Yield a mini-batch's micro-batches; the ranks add up their gradients only in the last one.

    Until then each rank keeps the whole gradient, 4 bytes a parameter. Where that would take too
    much of a GPU, every micro-batch's gradient is reduced to the rank's share at once.
    """
    once = _may_reduce_once(policy)
    for micro in minibatch:
        if isinstance(policy, FSDPModule):
            policy.set_requires_gradient_sync(not once or micro is minibatch[-1])
        yield micro


def _may_reduce_once(policy: Policy) -> bool:
    if dist.get_world_size() == 1:  # there is nothing to add up
        return False
    if not torch.cuda.is_available():
        return True
    gradient = 4 * sum(parameter.numel() for parameter in policy.parameters())
    return gradient <= REDUCE_ONCE * torch.cuda.get_device_properties().total_memory


# --- the optimizer ---


def make_optimizer(policy: Policy, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over a policy. Fused, it reads and writes each number once."""
    return torch.optim.AdamW(policy.parameters(), weight_decay=weight_decay, fused=True)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, rate: float, step: int, warmup_steps: int
) -> None:
    """A constant rate after a linear warm-up from 0: with one, the first step trains nothing."""
    if step <= warmup_steps:
        rate *= (step - 1) / warmup_steps
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_step(policy: Policy, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """Clip the gradient to a global norm, step, and clear it. Returns the norm before clipping.

    A non-finite gradient is thrown away: the weights stay as they were, and the caller counts it.
    """
    norm = float(full(torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm
