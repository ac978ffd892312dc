"""Replacements for parts of a transformers model that make decoding fast on a CPU.

    if speed_up(model):                      # an ordinary model; others are not changed
        cache = growing_cache(model, longest)
        load_packed(model, state)            # instead of model.load_state_dict

They are a cache that grows in place, attention that copies no keys, and large weights in the
processor's own layout. A model with any other kind of layer, such as sliding windows, linear
attention or state spaces, keeps the library's parts.
"""

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainer.policy.pretrained import has_full_attention


def speed_up(model) -> bool:
    """Replace attention and large linear layers of an ordinary float32 model on a CPU.

    Ordinary: with full attention in every layer. Returns whether the model is ordinary. Other
    models are not changed.
    """
    on_cpu = model.device.type == "cpu" and model.dtype == torch.float32
    if not on_cpu or not has_full_attention(model):
        return False
    model.set_attn_implementation("grouped")
    for name, module in list(model.named_modules()):
        large = type(module) is nn.Linear and module.weight.numel() >= PackedLinear.SMALLEST
        if large and torch.backends.mkldnn.is_available():
            model.set_submodule(name, PackedLinear(module))
    return True


def growing_cache(model, longest: int) -> DynamicCache:
    """An empty cache for at most `longest` tokens per row."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer(longest) for _ in cache.layers]
    return cache


def load_packed(model, state: dict[str, torch.Tensor]) -> None:
    """load_state_dict for a model with packed layers. It removes their weights from state."""
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            module.pack(state.pop(f"{name}.weight"))
    model.load_state_dict(state)


def grouped_attention(module, query, key, value, attention_mask, **options):
    """The library's "sdpa" for one new token per row: query [B, heads, 1, d] -> [B, 1, heads, d].

    key, value [B, key heads, T, d]; attention_mask [B, 1, 1, T], added to the scores. The library
    copies each key for every query head that reads it, and its kernel is made for many queries. Two
    plain products are faster.
    """
    B, heads, length, d = query.shape
    if length > 1 or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    key, value = key.flatten(0, 1), value.flatten(0, 1)
    scaling = options.get("scaling")
    query = (query * (d**-0.5 if scaling is None else scaling)).reshape(key.shape[0], -1, d)
    scores = torch.bmm(query, key.transpose(1, 2))
    if attention_mask is not None:
        scores.view(B, heads, -1).add_(attention_mask[:, 0])
    probs = scores.softmax(dim=-1)
    output = torch.bmm(value.transpose(1, 2), probs.transpose(1, 2)).transpose(1, 2)
    return output.reshape(B, 1, heads, -1), None


AttentionInterface.register("grouped", grouped_attention)
AttentionMaskInterface.register("grouped", sdpa_mask)


class GrowingLayer(DynamicLayer):
    """The library's cache layer with room to grow, so that its content is rarely copied.

    `keys` and `values` [B, heads, T, d] are views of the used part of `rooms`, two tensors with
    space for up to `longest` tokens. Values are stored as [B, heads, d, T], so that both products
    of attention read memory in order.
    """

    BLOCK = 16  # smallest growth of the rooms, in tokens

    def __init__(self, longest: int):
        super().__init__()
        self.longest = longest

    def update(self, key_states, value_states, *args, **kwargs):
        states = key_states, value_states
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms = self.keys, self.values = states
            return states
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if end > self.rooms[0].shape[2]:
            self._move(slice(None))
        for room, state in zip(self.rooms, states, strict=True):
            room[:, :, start:end] = state
        self.keys, self.values = (room[:, :, :end] for room in self.rooms)
        return self.keys, self.values

    def reorder_cache(self, rows: torch.Tensor) -> None:
        """Row i becomes the old row rows[i]. Rows that do not move cost nothing."""
        count = rows.shape[0]
        if count > self.keys.shape[0]:
            self._move(rows)
            return
        moved = (rows != torch.arange(count, device=rows.device)).nonzero().squeeze(-1)
        if moved.shape[0]:
            origins = rows[moved]
            for states in (self.keys, self.values):
                states.index_copy_(0, moved, states.index_select(0, origins))
        self.rooms = [room[:count] for room in self.rooms]
        self.keys, self.values = self.keys[:count], self.values[:count]

    def _move(self, rows) -> None:
        """Copy these rows into slightly longer rooms, because reading across large gaps is slow."""
        keys, values = self.keys[rows], self.values[rows]
        B, heads, length, d = keys.shape
        space = length + max(self.BLOCK, length // 8)
        space = max(length + 1, min(space, self.longest))
        self.rooms = (
            keys.new_empty(B, heads, space, d),
            values.new_empty(B, heads, values.shape[-1], space).transpose(2, 3),
        )
        for room, states in zip(self.rooms, (keys, values), strict=True):
            room[:, :, :length] = states
        self.keys, self.values = (room[:, :, :length] for room in self.rooms)


class PackedLinear(nn.Module):
    """A large nn.Linear with its weight in the layout that oneDNN multiplies fastest."""

    SMALLEST = 1 << 16  # weights; packing gains nothing for smaller ones

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.bias = linear.bias
        self.pack(linear.weight)

    def pack(self, weight: torch.Tensor) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().float(), None)

    @property
    def weight(self) -> torch.Tensor:
        return self.packed.to_dense()  # for a model that looks at it

    def forward(self, inputs):
        return torch.ops.mkldnn._linear_pointwise(inputs, self.packed, self.bias, "none", [], "")
