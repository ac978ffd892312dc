"""The model being trained: loading, log-probs of responses, micro-batches, and how several ranks share them.

Every rank holds the whole batch of rollouts (it is small: ids) and trains on its share, so each decision about the
batch (advantages, mini-batches, token weights) is taken everywhere alike and without communication. Ranks meet in three
places: `gather` after sampling, the gradient (FSDP2), and `mean_over_ranks` for the log.
"""

import datetime
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from losses import token_logps

CUT_COST = (
    256  # tokens: what one more micro-batch costs. To save less padding than that, none is cut off
)


def start_ranks() -> tuple[int, int, torch.device]:
    """Join the process group that torchrun describes, or make one of a single rank. Returns (rank, world, device).

    A group of one costs nothing and spares every caller an `if`. It also has to exist before vLLM starts, which would
    otherwise make its own default group.
    """
    cuda = torch.cuda.is_available()
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    )
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(
                backend, timeout=datetime.timedelta(hours=2)
            )  # the slowest rank may sample for long
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return dist.get_rank(), dist.get_world_size(), device


def my_share(items: list) -> list:
    """This rank's contiguous part of items; the parts differ by at most one item. `gather` puts them together again."""
    rank, world = dist.get_rank(), dist.get_world_size()
    return items[len(items) * rank // world : len(items) * (rank + 1) // world]


def gather(items: list) -> list:
    """The items of all ranks, in rank order, on every rank."""
    if dist.get_world_size() == 1:
        return items
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def mean_over_ranks(values: list[float]) -> list[float]:
    """Elementwise mean over the ranks, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return (tensor / dist.get_world_size()).tolist()


class Policy(nn.Module):
    """A causal language model whose forward pass returns log-probs and entropy of response tokens, never logits.

    The head's weight is whole only inside the root module's forward pass under FSDP, hence a module and not a function.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids_N_T: torch.Tensor, mask_N_T: torch.Tensor, temperature: float):
        """ids int64 [N, T], padded on the right; mask bool [N, T], True at the M response tokens.

        Returns (logps [M], entropy [M]) at the sampling temperature, in the order of ids_N_T[mask_N_T].

        No attention mask: under causal attention no real token sees the padding to its right, and without a mask torch
        takes its flash kernel.
        """
        hidden_N_T_d = self.model.base_model(input_ids=ids_N_T, use_cache=False).last_hidden_state
        predicts_N_T = mask_N_T[:, 1:]  # position t predicts token t + 1
        head = self.model.get_output_embeddings().weight
        return token_logps(
            hidden_N_T_d[:, :-1][predicts_N_T], head, ids_N_T[:, 1:][predicts_N_T], temperature
        )

    def full_state(self):
        """Yield (name, whole tensor) as transformers names them. Under FSDP every rank must walk it to the end."""
        for name, tensor in self.model.state_dict().items():
            yield name, full(tensor)

    def load_full_state(self, state: dict[str, torch.Tensor]) -> None:
        """Copy whole tensors in, by name. Raises ValueError when names are missing or too many."""
        own = self.model.state_dict()
        if missing := sorted(own.keys() ^ state.keys()):
            raise ValueError(
                f"the weights do not fit the model: {missing[0]} is missing on one side"
            )
        for name, tensor in own.items():
            copy_full(tensor, state[name])


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that FSDP may have sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_full(target: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy a whole tensor into one that FSDP may have sharded."""
    if isinstance(target, DTensor):
        whole = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)
    target.copy_(whole)


def load_model(model_dir: str, dtype: torch.dtype):
    """A causal language model. Raises ValueError, in one sentence, when model_dir holds none."""
    if Path(model_dir).exists() and not (Path(model_dir) / "config.json").exists():
        raise ValueError(
            f"{model_dir} holds no config.json: give a folder written by save_pretrained, or a hub id"
        )
    try:
        return AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load a language model from {model_dir}: {str(error).splitlines()[0]}"
        ) from error


def load_tokenizer(model_dir: str) -> PreTrainedTokenizerFast:
    """The tokenizer exactly as saved (AutoTokenizer would rebuild a Qwen2's). Raises ValueError when there is none."""
    if Path(model_dir).exists() and not (Path(model_dir) / "tokenizer.json").exists():
        raise ValueError(
            f"{model_dir} holds no tokenizer.json: give a folder with a model and its tokenizer in it"
        )
    try:
        return PreTrainedTokenizerFast.from_pretrained(model_dir)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load a tokenizer from {model_dir}: {str(error).splitlines()[0]}"
        ) from error


def load_reference(model_dir: str, dtype: torch.dtype) -> Policy:
    """A frozen policy of that dtype in host memory, whole on every rank: move it to the device only to use it."""
    return Policy(load_model(model_dir, dtype)).requires_grad_(False)


def load_policy(
    model_dir: str, device: torch.device, dtype: torch.dtype, gradient_checkpointing: bool
) -> Policy:
    """A policy to train: float32 master weights (at lr 1e-6 bfloat16 ones swallow the updates), computing in dtype.

    Sharded by FSDP2 where there are several ranks, and on CUDA also for one, for its mixed precision.
    """
    model = load_model(model_dir, torch.float32)
    policy = Policy(model.to(device))
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    if device.type == "cuda" or dist.get_world_size() > 1:
        precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for module in [*model.base_model.layers, policy]:
            fully_shard(module, mp_policy=precision)
            module.set_gradient_divide_factor(
                1.0
            )  # token weights are global: the ranks' gradients add up, not average
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    return policy


@dataclass
class MicroBatch:
    """A few sequences in one right-padded rectangle, and what the loss needs of their M response tokens, end to end."""

    ids_N_T: torch.Tensor  # int64, prompt + response + padding
    mask_N_T: (
        torch.Tensor
    )  # bool, True at response tokens. From lengths, never from ids: an eos may equal the padding
    advantages_M: torch.Tensor
    weights_M: torch.Tensor  # of the token in the loss of its global mini-batch
    engine_logps_M: torch.Tensor  # as the sampling engine reported them
    old_logps_M: torch.Tensor | None = (
        None  # the trainer's own, before the first update; set by the recipe
    )
    entropy_M: torch.Tensor | None = None
    ref_logps_M: torch.Tensor | None = None  # the reference policy's, for a KL penalty
    raw_logps_M: torch.Tensor | None = (
        None  # the trainer's own at temperature 1, to compare with an engine's raw ones
    )


def response_mask(rollouts: list) -> torch.Tensor:
    """bool [N, T]: True at the positions of each response, T = the longest."""
    lengths_N_1 = torch.tensor([len(rollout.response_ids) for rollout in rollouts])[:, None]
    return torch.arange(int(lengths_N_1.max())) < lengths_N_1


def micro_batches(
    rollouts: list,
    advantages_N: torch.Tensor,
    weights_N_T: torch.Tensor,
    budget: int,
    device: torch.device,
) -> list[MicroBatch]:
    """Cut one global mini-batch into this rank's micro-batches of at most `budget` padded tokens (or one sequence).

    advantages_N: of each response; weights_N_T: from losses.token_weights, over response positions.

    Sorted by length and cut where that saves most padding; dealt round robin, so that ranks get equal work.
    All ranks get equally many, some perhaps empty: FSDP's ranks compute in step or hang.
    """
    length_N = [len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts]
    longest_first = sorted(range(len(rollouts)), key=lambda i: -length_N[i])
    world = dist.get_world_size()
    cuts_by_rank = [_cut(longest_first[rank::world], length_N, budget) for rank in range(world)]
    cuts = cuts_by_rank[dist.get_rank()]
    empty = [[]] * (max(map(len, cuts_by_rank)) - len(cuts))
    return [
        _rectangle([rollouts[i] for i in rows], advantages_N[rows], weights_N_T[rows], device)
        for rows in cuts + empty
    ]


def _cut(longest_first: list[int], length_N: list[int], budget: int) -> list[list[int]]:
    """The cuts of a list of rows into rectangles within the budget that cost least: padded tokens, and CUT_COST each.

    The first row of a cut is its longest and sets the width of the rectangle. cheapest[end] is the cost of the best
    cuts of the first `end` rows, and starts[end] where the last of them begins.
    """
    cheapest, starts = [0], [0]
    for end in range(1, len(longest_first) + 1):
        options = []
        for start in reversed(range(end)):
            area = (end - start) * length_N[longest_first[start]]
            if options and area > budget:
                break
            options.append((cheapest[start] + area + CUT_COST, start))
        cost, start = min(options)
        cheapest.append(cost)
        starts.append(start)
    cuts, end = [], len(longest_first)
    while end:
        cuts.append(longest_first[starts[end] : end])
        end = starts[end]
    return cuts[::-1]


def _rectangle(rollouts, advantages_N, weights_N_T, device) -> MicroBatch:
    width = max((len(r.prompt_ids) + len(r.response_ids) for r in rollouts), default=2)
    ids_N_T = torch.zeros(
        max(len(rollouts), 1), width, dtype=torch.int64
    )  # which id pads is all one, see Policy.forward
    mask_N_T = torch.zeros_like(ids_N_T, dtype=torch.bool)
    for row, rollout in enumerate(rollouts):
        start, end = len(rollout.prompt_ids), len(rollout.prompt_ids) + len(rollout.response_ids)
        ids_N_T[row, :end] = torch.from_numpy(
            np.concatenate([rollout.prompt_ids, rollout.response_ids])
        )
        mask_N_T[row, start:end] = True
    lengths_N = torch.tensor([len(rollout.response_ids) for rollout in rollouts], dtype=torch.int64)
    tokens_N_T = torch.arange(weights_N_T.shape[1]) < lengths_N[:, None]
    return MicroBatch(
        ids_N_T=ids_N_T.to(device),
        mask_N_T=mask_N_T.to(device),
        advantages_M=advantages_N.float().repeat_interleave(lengths_N).to(device),
        weights_M=weights_N_T[tokens_N_T].to(device),
        engine_logps_M=torch.from_numpy(
            np.concatenate([np.zeros(0, np.float32), *(rollout.logps for rollout in rollouts)])
        ).to(device),
    )


class TokenMeans:
    """Means over all response tokens of a step, whatever micro-batch or rank they passed through; maxima likewise."""

    def __init__(self):
        self.sums, self.maxima, self.tokens = {}, {}, 0

    def add(self, **values_M: torch.Tensor) -> None:
        """Add one micro-batch's values, each [M]."""
        self.tokens += len(next(iter(values_M.values())))
        for name, value_M in values_M.items():
            self.sums[name] = self.sums.get(name, 0.0) + value_M.sum(dtype=torch.float64)
            if len(value_M):
                self.maxima[name] = max(self.maxima.get(name, -torch.inf), value_M.max().item())

    def means(self) -> dict[str, float]:
        """The mean of each value over all ranks' tokens."""
        *sums, tokens = mean_over_ranks(
            [float(total) for total in self.sums.values()] + [float(self.tokens)]
        )
        return dict(zip(self.sums, (total / max(tokens, 1e-9) for total in sums), strict=True))

    def maximum(self, name: str) -> float:
        """The largest of one value over all ranks."""
        tensor = torch.tensor(self.maxima.get(name, -torch.inf), dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.item()


def optimizer_step(policy: Policy, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """Clip the gradient to a global norm, step, and clear it. Returns the norm before clipping.

    A non-finite gradient is thrown away instead: the weights stay as they were, and the caller counts it.
    """
    norm = float(full(torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm
