"""A micro-batch in which the samples of a prompt share it: each token goes through the layers once.

The tokens of all sequences lie end to end in one row [1, N] without padding, each prompt once,
however many responses it has. Only attention needs to know whole sequences. Around it, the tokens'
queries, keys and values are copied into right-padded rectangles, in which every response follows
its prompt, and the results are copied back. Causal attention makes a prompt's numbers the same in
all its rows, so the log-probs are those of separate sequences, up to rounding.
"""

import inspect
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import embedding
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trainer.data import Rollout
from trainer.policy.logps import FAULTS

# A rectangle more costs as much as this many tokens of padding in attention, on a CPU.
RECTANGLE_COST = 128


@dataclass
class Packed:
    """N different tokens end to end, and where they stand in the rows of the rectangles."""

    ids_1_N: torch.Tensor  # int64
    positions_1_N: torch.Tensor  # int64, of each token in its sequence
    places: list[torch.Tensor]  # int64 [rows, T] each: which of the N tokens stands there
    source_N: torch.Tensor  # int64, where each token is found in the rectangles laid end to end
    predicts_M: torch.Tensor  # int64, which of the N tokens predicts each response token

    def options(self) -> dict:
        """What a model that shares prompts takes beside the ids."""
        return {"position_ids": self.positions_1_N, "rectangles": (self.places, self.source_N)}


def pack(rollouts: list[Rollout], device: torch.device) -> Packed:
    """Lay the rollouts' tokens end to end, equal prompts once."""
    starts, rows, size = {}, [], 0
    for rollout in rollouts:
        prompt = tuple(rollout.prompt_ids)
        if prompt not in starts:
            starts[prompt] = size
            size += len(prompt)
        response = np.arange(size, size + len(rollout.response_ids))
        rows.append(np.concatenate([np.arange(len(prompt)) + starts[prompt], response]))
        size += len(response)
    ids_N, positions_N, source_N = np.empty((3, size), dtype=np.int64)
    places, area = [], 0
    length_B = [len(row) for row in rows]
    longest_first = sorted(range(len(rows)), key=lambda i: -length_B[i])
    for cut in cut_rectangles(longest_first, length_B, cut_cost=RECTANGLE_COST):
        width = length_B[cut[0]]
        place_B_T = np.zeros((len(cut), width), dtype=np.int64)
        for line, i in enumerate(cut):
            row, length = rows[i], length_B[i]
            place_B_T[line, :length] = row
            ids_N[row] = np.concatenate([rollouts[i].prompt_ids, rollouts[i].response_ids])
            positions_N[row] = np.arange(length)
            source_N[row] = area + line * width + positions_N[row]
        places.append(torch.from_numpy(place_B_T).to(device))
        area += place_B_T.size
    predicts_M = [
        row[len(rollout.prompt_ids) - 1 : -1] for row, rollout in zip(rows, rollouts, strict=True)
    ]
    return Packed(
        ids_1_N=torch.from_numpy(ids_N[None]).to(device),
        positions_1_N=torch.from_numpy(positions_N[None]).to(device),
        places=places,
        source_N=torch.from_numpy(source_N).to(device),
        predicts_M=torch.from_numpy(np.concatenate(predicts_M)).to(device),
    )


def cut_rectangles(
    longest_first: list[int], length_B: list[int], cut_cost: int, budget: float = float("inf")
) -> list[list[int]]:
    """Cut a list of rows into rectangles within the budget at the least cost.

    The cost is the number of padded tokens, and cut_cost for each rectangle. The first row of a
    rectangle is its longest and sets the width. cheapest[end] is the cost of the best cuts of the
    first `end` rows, and starts[end] is where the last of them begins.
    """
    cheapest, starts = [0], [0]
    for end in range(1, len(longest_first) + 1):
        options = []
        for start in reversed(range(end)):
            area = (end - start) * length_B[longest_first[start]]
            if options and area > budget:
                break
            options.append((cheapest[start] + area + cut_cost, start))
        cost, start = min(options)
        cheapest.append(cost)
        starts.append(start)
    cuts, end = [], len(longest_first)
    while end:
        cuts.append(longest_first[starts[end] : end])
        end = starts[end]
    return cuts[::-1]


def share_prompts(model) -> bool:
    """Make a model ready for Packed.options, and return True; or leave it alone, and return False.

    It must have full attention in every layer, look its attention up by name, and take positions;
    and on two short sequences of one prompt it must say what it says of each alone.
    """
    layers = DynamicCache(config=model.config).layers
    own = model.config._attn_implementation
    if (
        own != "sdpa"
        or not model._supports_attention_backend
        or "position_ids" not in inspect.signature(model.forward).parameters
        or not layers
        or any(type(layer) is not DynamicLayer for layer in layers)
    ):
        return False
    model.set_attn_implementation("packed")
    if _says_the_same(model):
        return True
    model.set_attn_implementation(own)
    return False


@torch.no_grad()
def _says_the_same(model) -> bool:
    """Whether packed sequences have the logits that each has alone."""
    embedding_V_d = model.get_input_embeddings().weight
    ids = torch.linspace(1, len(embedding_V_d) - 2, 16).long().tolist()
    sequences = [ids[:6] + ids[6:10], ids[:6] + ids[10:]]
    rollouts = [Rollout(np.array(s[:6]), np.array(s[6:]), np.zeros(4), False) for s in sequences]
    packed = pack(rollouts, embedding_V_d.device)
    try:
        together_M_V = model(packed.ids_1_N, **packed.options()).logits[0, packed.predicts_M]
    except FAULTS:
        return False
    alone = [model(torch.tensor([sequence])).logits[0, 5:-1] for sequence in sequences]
    alone_M_V = torch.cat(alone)
    tolerance = 1e-5 * max(10.0, alone_M_V.abs().max().item())  # rounding grows with the logits
    return (together_M_V - alone_M_V).abs().max().item() <= tolerance


def packed_attention(module, query, key, value, attention_mask, rectangles=None, **options):
    """The library's "sdpa"; for packed sequences [1, heads, N, d], in rectangles.

    rectangles: Packed's places and source_N. No mask: the padding is on the right.
    """
    if rectangles is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    places, source_N = rectangles
    done = []
    for place_B_T in places:
        rows = [_rows(states, place_B_T) for states in (query, key, value)]
        done.append(sdpa_attention_forward(module, *rows, None, **options)[0].flatten(0, 1))
    states_N = embedding(source_N, torch.cat(done).flatten(1))
    return states_N.view(1, len(source_N), *done[0].shape[1:]), None


def _rows(states: torch.Tensor, place_B_T: torch.Tensor) -> torch.Tensor:
    """[1, heads, N, d] -> [B, heads, T, d]: each place's copy of its token's states.

    The gradient of an embedding adds up the copies, faster than that of an index does.
    """
    _, heads, N, d = states.shape
    copies = embedding(place_B_T, states.transpose(1, 2).reshape(N, heads * d))
    return copies.unflatten(-1, (heads, d)).transpose(1, 2)


# No mask is ever given, and causal attention needs none.
AttentionInterface.register("packed", packed_attention)
AttentionMaskInterface.register("packed", lambda *args, **kwargs: None)
