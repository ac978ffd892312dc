"""Sampling with the transformers model itself, for machines without vLLM.

This is our own loop around the model's forward pass, because `generate` does not offer: one random
stream for each sample, log-probs of samples without keeping all logits, one prefill for the n
samples of a prompt, and removing finished rows from the batch. cpu_layers.py makes it fast.
"""

import inspect

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from trainer.data import Rollout, Sampling
from trainer.errors import Refused
from trainer.machine import device_memory
from trainer.policy.logps import plain_prompt
from trainer.policy.pretrained import load_model
from trainer.sampler.cpu_layers import growing_cache, load_packed, speed_up

CPU = torch.device("cpu")


class TransformersEngine:
    """Plain batched decoding."""

    BATCH = 512  # most sequences decoded together; fewer if their cache is too large
    GPU_CACHE = 0.25  # of the memory that is free at the start
    # Bytes. It is fixed, because batches decide how sums are rounded, and runs must be repeatable.
    CPU_CACHE = 4e9

    def __init__(
        self,
        model_dir: str,
        vocabulary: int,
        stop_ids: list[int],
        *,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        memory: float = 0.35,
        raw_logps: bool = False,
    ):
        """See engine.open_engine. memory has no effect here."""
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else CPU
        self.model = load_model(model_dir, dtype).to(self.device).eval()
        self.accepts = inspect.signature(self.model.forward).parameters
        self.state_space = "cache_params" in self.accepts  # needs the mask only in the prefill
        self.stop_ids = torch.tensor(stop_ids, dtype=torch.int64, device=self.device)
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.raw_logps = raw_logps
        self.ordinary = speed_up(self.model)
        with plain_prompt(self.model):
            self.bytes_per_token = self._bytes_per_token()
        self.cache_room = self.GPU_CACHE * device_memory(self.device) if cuda else self.CPU_CACHE

    @torch.inference_mode()
    def generate(self, prompts, n: int, seeds, sampling: Sampling) -> list[list[Rollout]]:
        """See engine.Engine."""
        longest = max(map(len, prompts), default=0) + sampling.max_tokens
        if longest > self.max_length:
            limit = f"is over the engine's limit of {self.max_length}"
            raise Refused(f"prompt + response of {longest} tokens {limit}")
        groups, at_once = [], self.prompts_at_once(n, longest)
        for start in range(0, len(prompts), at_once):
            rows = slice(start, start + at_once)
            groups += self._decode(prompts[rows], n, seeds[rows], sampling)
        return groups

    def prompts_at_once(self, n: int, length: int) -> int:
        """How many prompts, with n sequences each, to decode together: their cache must fit."""
        fit = int(self.cache_room / max(1, self.bytes_per_token * length))
        return max(1, min(self.BATCH, fit) // n)

    @torch.inference_mode()
    def _bytes_per_token(self) -> int:
        """Bytes of one sequence's keys and values, measured by running one token."""
        cache = DynamicCache(config=self.model.config)
        ids = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        self._forward(ids, ids == 0, ids, cache)
        states = (getattr(layer, at, None) for layer in cache.layers for at in ("keys", "values"))
        return sum(tensor.nbytes for tensor in states if isinstance(tensor, torch.Tensor))

    def _decode(self, prompts, n, seeds, sampling) -> list[list[Rollout]]:
        """Decode N = P n sequences in one batch. Its B rows are the unfinished ones."""
        width, max_tokens = max(map(len, prompts)), sampling.max_tokens
        cache, mask, position, logits = self._prefill(prompts, width, max_tokens)
        rows = torch.arange(len(prompts) * n, device=self.device)  # row -> sequence
        cache.reorder_cache(rows // n)
        mask, position, logits = mask[rows // n], position[rows // n], logits[rows // n]

        streams = [np.random.default_rng([seed, g]) for seed in seeds for g in range(n)]
        draws_N_R = torch.from_numpy(np.stack([stream.random(max_tokens) for stream in streams]))
        draws_N_R = draws_N_R.to(self.device)
        ids_N_R = torch.zeros(len(rows), max_tokens, dtype=torch.int64, device=self.device)
        logps_N_R = torch.zeros(len(rows), max_tokens, device=self.device)
        length_N = torch.full((len(rows),), max_tokens, device=self.device)
        for t in range(max_tokens):
            ids, logps = self._sample(logits, draws_N_R[rows, t], sampling)
            ids_N_R[rows, t], logps_N_R[rows, t] = ids, logps

            stops = (ids[:, None] == self.stop_ids).any(dim=1)
            if stops.any():
                length_N[rows[stops]] = t + 1
                keep = _fill_gaps(stops)
                if len(keep) == 0:
                    break
                cache.reorder_cache(keep)
                rows, ids, mask, position = rows[keep], ids[keep], mask[keep], position[keep]
            if t + 1 < max_tokens:
                logits = self._forward(ids[:, None], mask[..., : width + t + 1], position, cache)
                position += 1

        ids_N_R, logps_N_R = ids_N_R.to("cpu", torch.int32).numpy(), logps_N_R.cpu().numpy()
        prompts = [np.array(prompt, np.int32) for prompt in prompts]
        rollouts, stop_ids = [], set(self.stop_ids.tolist())
        for i, length in enumerate(length_N.tolist()):
            ids, logps = ids_N_R[i, :length].copy(), logps_N_R[i, :length].copy()
            rollouts.append(Rollout(prompts[i // n], ids, logps, truncated=ids[-1] not in stop_ids))
        return [rollouts[start : start + n] for start in range(0, len(rollouts), n)]

    def _prefill(self, prompts, width: int, max_tokens: int):
        """Run the P prompts, padded on the left so that all responses start at the same position.

        Returns the cache; the attention mask for prompt and response, [P, T], or [P, 1, 1, T] in
        the form that is added to attention scores; the first response token's position [P, 1]; and
        the logits that predict it [P, V].
        """
        length_P_1 = torch.tensor([[len(prompt)] for prompt in prompts], device=self.device)
        place = torch.arange(width + max_tokens, device=self.device)
        mask = place >= width - length_P_1
        positions = (place[:width] - (width - length_P_1)).clamp(min=0)
        if self.ordinary:
            cache = growing_cache(self.model, width + max_tokens)
        else:
            cache = DynamicCache(config=self.model.config)
        rows = [torch.tensor(prompt) for prompt in prompts]
        ids = pad_sequence(rows, batch_first=True, padding_side="left").to(self.device)
        logits = self._forward(ids, mask[:, :width], positions, cache)
        if self.ordinary:  # in this form, it is not computed again at every step
            blank = torch.zeros(mask.shape, dtype=self.model.dtype, device=self.device)
            mask = blank.masked_fill_(~mask, -torch.inf)[:, None, None]
        return cache, mask, length_P_1, logits

    def _forward(self, ids, mask, positions, cache) -> torch.Tensor:
        """Logits [B, V] of the last position."""
        inputs = {
            "input_ids": ids,
            "attention_mask": None if self.state_space and ids.shape[1] == 1 else mask,
            "position_ids": positions,
            "past_key_values": cache,
            "cache_params": cache,  # its name in state-space models
            "use_cache": True,
            "logits_to_keep": 1,
        }
        outputs = self.model(**{key: inputs[key] for key in inputs if key in self.accepts})
        return outputs.logits[:, -1, : self.vocabulary].float()

    def _sample(self, logits, draws, sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """One uniform number per row -> (ids [B], log-probs [B]). Temperature 0 is greedy."""
        scaled = logits if sampling.temperature in (0, 1) else logits / sampling.temperature
        scaled = _truncate(scaled, sampling.top_p, sampling.top_k)
        probs = scaled.softmax(dim=-1)
        ids = logits.argmax(dim=-1) if sampling.temperature == 0 else _draw(probs, draws)
        reported = logits.softmax(dim=-1) if self.raw_logps else probs
        return ids, reported.gather(-1, ids[:, None]).squeeze(-1).log()

    def load_weights(self, policy) -> None:
        """See engine.Engine."""
        load_packed(self.model, dict(policy.full_state()))

    def sleep(self) -> None:
        """Do nothing: no memory is reserved between calls."""


def _fill_gaps(stops: torch.Tensor) -> torch.Tensor:
    """Indices of unfinished rows. Rows from the end fill the gaps, so that few rows are copied."""
    still = int((~stops).sum())
    keep = torch.arange(still, device=stops.device)
    keep[stops[:still]] = still + (~stops[still:]).nonzero().squeeze(-1)
    return keep


def _truncate(scaled: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """Keep the top_k likeliest tokens, and of those the fewest whose probabilities reach top_p.

    The others get -inf.
    """
    vocabulary = scaled.shape[-1]
    if top_k > 0:
        kth = scaled.topk(min(top_k, vocabulary)).values[:, -1:]
        scaled = scaled.masked_fill(scaled < kth, -torch.inf)
    if top_p >= 1.0:
        return scaled
    total, k = scaled.logsumexp(dim=-1, keepdim=True), 128
    # A few tokens have most of the probability; sorting the whole vocabulary is much slower.
    while True:
        likeliest, ids = scaled.topk(min(k, vocabulary))
        probs = (likeliest - total).exp()
        before = probs.cumsum(dim=-1) - probs
        if k >= vocabulary or (before[:, -1] >= top_p).all():
            break
        k *= 4
    likeliest = likeliest.masked_fill(before >= top_p, -torch.inf)
    return torch.full_like(scaled, -torch.inf).scatter_(-1, ids, likeliest)


def _draw(probs: torch.Tensor, draws: torch.Tensor, block: int = 1024) -> torch.Tensor:
    """Inverse-CDF sampling: probs [B, V], draws [B] in [0, 1) -> ids [B].

    First find the block of ids, then the id in it, because a cumulative sum over a large vocabulary
    is slow. The draw stays below the end of its block, so no id of probability 0 is drawn.
    """
    B, V = probs.shape
    block = min(block, V)
    blocks = (F.pad(probs, (0, -V % block)) if V % block else probs).view(B, -1, block)
    ends = blocks.sum(dim=-1).double().cumsum(dim=-1)
    below = 1 - 2**-52  # or the largest draw times the total may round to the total
    target = draws[:, None] * below * ends[:, -1:]
    b = torch.searchsorted(ends, target, right=True)
    inside = blocks[torch.arange(B, device=b.device), b[:, 0]].double().cumsum(dim=-1)
    target = target - (ends.gather(-1, b) - inside[:, -1:])
    target = target.clamp(min=0).minimum(below * inside[:, -1:])
    return (b * block + torch.searchsorted(inside, target, right=True)).squeeze(-1)
