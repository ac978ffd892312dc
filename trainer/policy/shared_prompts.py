"""Compute each prompt once for all its samples. Only for a CPU, in one process.

The tokens of all sequences form one row [1, N] without padding, with each prompt once. Only
attention needs whole sequences. For it, queries, keys and values are copied into right-padded
rectangles, in which every response follows its prompt, and the results are copied back. Under
causal attention a prompt has the same numbers in all its rows, so the log-probs are those of
separate sequences, up to rounding.
"""

import inspect
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import embedding
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trainer.data import Rollout
from trainer.policy.policy import MicroBatch, Policy, cut_rectangles, rectangle
from trainer.policy.pretrained import has_full_attention

# One more rectangle costs as much as this many padded tokens in attention, on a CPU.
RECTANGLE_COST = 128
CPU = torch.device("cpu")


class SharedPromptsPolicy(Policy):
    """A policy that computes each prompt once for all its samples."""

    def hidden(self, micro: MicroBatch) -> torch.Tensor:
        """The head's input [M, d], see Policy.hidden."""
        if not isinstance(micro, PackedBatch):
            return super().hidden(micro)
        hidden_1_N_d = self.head.inputs(self.model, micro.ids_1_N, **micro.options())
        return embedding(micro.predicts_M, hidden_1_N_d[0])

    def cut(
        self, rollouts: list[Rollout], advantages_B: torch.Tensor, weights_B_R: torch.Tensor
    ) -> list[MicroBatch]:
        """Cut one mini-batch in its order, which keeps the samples of a prompt together.

        The budget does not count padding.
        """
        length_B = [len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts]
        micros = []
        for rows in fill(length_B, self.budget):
            members = [rollouts[i] for i in rows]
            micros.append(pack(members, advantages_B[rows], weights_B_R[rows]))
        micros[-1].last = True
        return micros


def fill(length_B: list[int], budget: int) -> list[list[int]]:
    """Cut the rows, in order, where the next one would exceed the budget."""
    cuts, room = [], 0
    for row, length in enumerate(length_B):
        if length > room:
            cuts.append([])
            room = budget
        cuts[-1].append(row)
        room -= length
    return cuts


@dataclass(kw_only=True)
class PackedBatch(MicroBatch):
    """A micro-batch that also holds its N tokens end to end, each prompt once."""

    ids_1_N: torch.Tensor  # int64
    positions_1_N: torch.Tensor  # int64, of each token in its sequence
    places: list[torch.Tensor]  # int64 [rows, T] each: which of the N tokens is there
    source_N: torch.Tensor  # int64, where to find each token in the flattened rectangles
    predicts_M: torch.Tensor  # int64, which of the N tokens predicts each response token

    def options(self) -> dict:
        """The model's arguments besides the ids."""
        return {"position_ids": self.positions_1_N, "rectangles": (self.places, self.source_N)}


def pack(
    rollouts: list[Rollout], advantages_B: torch.Tensor, weights_B_R: torch.Tensor
) -> PackedBatch:
    """One micro-batch, see rectangle, with its tokens end to end, equal prompts once."""
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
    predicts = []
    for row, rollout in zip(rows, rollouts, strict=True):
        ids_N[row] = np.concatenate([rollout.prompt_ids, rollout.response_ids])
        positions_N[row] = np.arange(len(row))
        predicts.append(row[len(rollout.prompt_ids) - 1 : -1])
    places, area = [], 0
    longest_first = sorted(rows, key=len, reverse=True)
    for cut in cut_rectangles([len(row) for row in longest_first], RECTANGLE_COST):
        place_B_T = pad_sequence(list(map(torch.from_numpy, longest_first[cut])), batch_first=True)
        for line, row in enumerate(longest_first[cut]):
            source_N[row] = area + line * place_B_T.shape[1] + np.arange(len(row))
        places.append(place_B_T)
        area += place_B_T.numel()
    return PackedBatch(
        **vars(rectangle(rollouts, advantages_B, weights_B_R, CPU)),
        ids_1_N=torch.from_numpy(ids_N[None]),
        positions_1_N=torch.from_numpy(positions_N[None]),
        places=places,
        source_N=torch.from_numpy(source_N),
        predicts_M=torch.from_numpy(np.concatenate(predicts)),
    )


def share_prompts(model) -> bool:
    """Prepare a model for PackedBatch.options and return True; return False if it is unsuitable.

    It must have full attention, accept positions, and give two packed sequences the logits that
    each gets alone.
    """
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    if not has_full_attention(model) or not takes_positions:
        return False
    model.set_attn_implementation("packed")
    if _logits_agree(model):
        return True
    model.set_attn_implementation("sdpa")
    return False


@torch.no_grad()
def _logits_agree(model) -> bool:
    """Whether packed sequences get the logits that each gets alone."""
    vocabulary = len(model.get_input_embeddings().weight)
    ids = torch.linspace(1, vocabulary - 2, 14).long().tolist()
    sequences = [ids[:6] + ids[6:10], ids[:6] + ids[10:]]
    rollouts = [Rollout(np.array(s[:6]), np.array(s[6:]), np.zeros(4), False) for s in sequences]
    packed = pack(rollouts, torch.zeros(2), torch.zeros(2, 4))
    try:
        together_1_N_V = model(packed.ids_1_N, use_cache=False, **packed.options()).logits
    except Exception:  # the model's own code may raise anything
        return False
    together_M_V = together_1_N_V[0, packed.predicts_M]
    alone = [model(torch.tensor([one]), use_cache=False).logits[0, 5:-1] for one in sequences]
    alone_M_V = torch.cat(alone)
    tolerance = 1e-5 * max(10.0, alone_M_V.abs().max().item())  # rounding grows with the logits
    return (together_M_V - alone_M_V).abs().max().item() <= tolerance


def packed_attention(module, query, key, value, attention_mask, rectangles=None, **options):
    """The library's "sdpa"; for packed sequences [1, heads, N, d], in rectangles.

    rectangles: PackedBatch's places and source_N. No mask: the padding is on the right.
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

    The gradient of an embedding adds up the copies faster than that of indexing.
    """
    _, heads, N, d = states.shape
    copies = embedding(place_B_T, states.transpose(1, 2).reshape(N, heads * d))
    return copies.unflatten(-1, (heads, d)).transpose(1, 2)


# There is no mask; causal attention needs none.
AttentionInterface.register("packed", packed_attention)
AttentionMaskInterface.register("packed", lambda *args, **kwargs: None)
