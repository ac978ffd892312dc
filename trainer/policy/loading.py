"""Load a model folder as a policy to train, sharded over the ranks, or as a frozen reference."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.policy.logps import Head
from trainer.policy.policy import Policy, is_sharded
from trainer.policy.pretrained import blocks_of, checkpoint_activations, load_model
from trainer.ranks import from_all_ranks

# The ranks' gradients are added up once per update instead of once per micro-batch, if the memory
# for that, 4 bytes a parameter on every rank, is at most this share of a GPU.
REDUCE_ONCE = 0.1


def compute_dtype() -> torch.dtype:
    """bfloat16 if there is a GPU, else float32."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def load_policy(config: Any, model_dir: str, device: torch.device) -> Policy:
    """A policy to train: float32 master weights, computing in compute_dtype.

    At a learning rate of 1e-6, bfloat16 master weights would round the updates away. FSDP2 shards
    the policy over several ranks, and on CUDA it also wraps a single one, for its mixed precision.
    Only rank 0 reads the model.

    config gives tokens_per_micro_batch, gradient_checkpointing and offload. Offload keeps weights,
    gradients and the optimizer's state in host memory, where the optimizer then works, and only the
    current layer on the device.

    On a CPU, in one process, prompts are computed once for all their samples if the model allows:
    see shared_prompts.py.
    """
    model = _load_on_rank_0(model_dir)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    head = Head(model)
    head.check(model)
    plain = device.type == "cpu" and dist.get_world_size() == 1 and not config.offload
    kind = _sharing(model) if plain else Policy
    policy = kind(model, head, device, config.tokens_per_micro_batch)
    if plain:
        return policy
    from torch.distributed import fsdp  # here: neither a run on one CPU nor --help needs it

    precision = fsdp.MixedPrecisionPolicy(param_dtype=compute_dtype(), reduce_dtype=torch.float32)
    place = fsdp.OffloadPolicy()
    if config.offload:
        place = fsdp.CPUOffloadPolicy(pin_memory=device.type == "cuda")
    for module in [*blocks_of(model), policy]:
        _take_weights_of_rank_0(module, device)
        fsdp.fully_shard(module, mp_policy=precision, offload_policy=place)
        # Token weights are global, so gradients are summed over ranks, not averaged.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # the only reduction that gloo has
    if _may_reduce_once(policy):
        policy.register_forward_pre_hook(_reduce_after_the_last)
    return policy


def load_reference(model_dir: str, device: torch.device) -> Policy:
    """A frozen policy in compute_dtype that waits in host memory; see policy.on_device."""
    model = load_model(model_dir, compute_dtype())
    kind = _sharing(model) if device.type == "cpu" else Policy
    return kind(model, Head(model), device, budget=0).requires_grad_(False)


def _sharing(model) -> type[Policy]:
    """The policy of a CPU: one that shares prompts, where the model can."""
    from trainer.policy.shared_prompts import SharedPromptsPolicy, share_prompts  # transformers

    return SharedPromptsPolicy if share_prompts(model) else Policy


def _reduce_after_the_last(policy: Policy, arguments: tuple) -> None:
    """Add up the ranks' gradients only after the last micro-batch of a mini-batch.

    Until then each rank keeps the whole gradient, 4 bytes a parameter.
    """
    policy.set_requires_gradient_sync(arguments[0].last)


def _may_reduce_once(policy: Policy) -> bool:
    """Whether there are several ranks, each with room for a whole gradient."""
    if dist.get_world_size() == 1:
        return False
    if not torch.cuda.is_available():
        return True
    gradient = 4 * sum(parameter.numel() for parameter in policy.parameters())
    # GPUs may differ, but all ranks must decide the same.
    memory = min(from_all_ranks(torch.cuda.get_device_properties().total_memory))
    return gradient <= REDUCE_ONCE * memory


def _load_on_rank_0(model_dir: str):
    """The model in float32 on rank 0; on other ranks its modules on the meta device."""
    kind = [None, None]
    if dist.get_rank() == 0:
        model = load_model(model_dir, torch.float32)
        kind = [type(model), model.config]
    dist.broadcast_object_list(kind, src=0, device=torch.device("cpu"))
    if dist.get_rank() > 0:
        model_class, config = kind
        with torch.device("meta"):
            model = model_class(config).eval()
    return model


def _take_weights_of_rank_0(module: nn.Module, device: torch.device) -> None:
    """Copy rank 0's weights and buffers into a module, on the device; skip what is sharded already.

    Called for one module after another, so that only rank 0 ever holds more than one whole module.
    """
    if dist.get_world_size() == 1:
        return
    filled = {}  # a tied tensor occurs twice and must stay one tensor
    for part in module.modules():
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        for name, tensor in own:
            if is_sharded(tensor):
                continue
            if tensor not in filled:
                whole = torch.empty_like(tensor, device=device, requires_grad=False)
                if dist.get_rank() == 0:
                    whole = tensor.detach().to(device)
                dist.broadcast(whole, src=0)
                trained = isinstance(tensor, nn.Parameter)
                filled[tensor] = nn.Parameter(whole, tensor.requires_grad) if trained else whole
            setattr(part, name, filled[tensor])
