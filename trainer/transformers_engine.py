"""Sampling with the transformers model itself, for machines without vLLM."""

import numpy as np
import torch
from transformers import DynamicCache

from trainer.data import Rollout, Sampling
from trainer.policy import load_model


class TransformersEngine:
    """Plain batched decoding with the transformers model, for machines without vLLM.

    Our own loop around the model's forward pass rather than `generate`, for what `generate` cannot do: a random stream
    per sample, log-probs of the samples without keeping all logits, one prefill for the n samples of a prompt, and
    dropping finished rows from the batch while the long ones go on.
    """

    BATCH = 512  # sequences decoded together
    DRAWS = 64  # uniform numbers drawn ahead per sequence
    COMPACT = 0.75  # drop the finished rows once at most this share of the batch is still running

    def __init__(
        self,
        model_dir: str,
        vocabulary: int,
        stop_ids: list[int],
        max_length: int,
        dtype: torch.dtype,
        raw_logps: bool = False,
    ):
        self.device = (
            torch.device("cuda", torch.cuda.current_device())
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
        self.model = load_model(model_dir, dtype).to(self.device).eval()
        self.stop_ids = torch.tensor(stop_ids, device=self.device)
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.raw_logps = raw_logps

    @torch.inference_mode()
    def generate(self, prompts, n: int, seeds, sampling: Sampling) -> list[list[Rollout]]:
        """n responses to each prompt: prompts P lists of ids, seeds P ints -> P lists of n rollouts."""
        if (longest := max(map(len, prompts), default=0) + sampling.max_tokens) > self.max_length:
            raise ValueError(
                f"prompt + response of {longest} tokens is over the engine's limit of {self.max_length}"
            )
        groups, prompts_at_once = [], max(1, self.BATCH // n)
        for start in range(0, len(prompts), prompts_at_once):
            rows = slice(start, start + prompts_at_once)
            groups += self._decode(prompts[rows], n, seeds[rows], sampling)
        return groups

    def _decode(self, prompts, n, seeds, sampling) -> list[list[Rollout]]:
        """Decode one batch. N counts all its sequences; a batch row is a sequence still being decoded."""
        # Prefill once a prompt, padded on the left so that all responses start at the same position.
        width = max(map(len, prompts))
        padding_P_1 = torch.tensor(
            [[width - len(prompt)] for prompt in prompts], device=self.device
        )
        ids_P_T = torch.tensor(
            [[0] * (width - len(prompt)) + prompt for prompt in prompts], device=self.device
        )
        mask = torch.arange(width, device=self.device) >= padding_P_1
        positions = (torch.arange(width, device=self.device) - padding_P_1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids_P_T, mask, positions, cache).repeat_interleave(n, dim=0)
        cache.batch_repeat_interleave(n)
        mask = mask.repeat_interleave(n, dim=0)
        position = (width - padding_P_1).repeat_interleave(n, dim=0)

        count, max_tokens = len(prompts) * n, sampling.max_tokens
        streams = [np.random.default_rng([seed, g]) for seed in seeds for g in range(n)]
        draws_N_D = torch.empty(count, self.DRAWS, dtype=torch.float64, device=self.device)
        ids_N_T = torch.zeros(count, max_tokens, dtype=torch.int64, device=self.device)
        logps_N_T = torch.zeros(count, max_tokens, device=self.device)
        length_N = torch.full((count,), max_tokens, device=self.device)
        stopped_N = torch.zeros(count, dtype=torch.bool, device=self.device)
        rows = torch.arange(count, device=self.device)  # batch row -> sequence
        for t in range(max_tokens):
            if t % self.DRAWS == 0:
                draws_N_D[rows] = torch.tensor(
                    np.stack([streams[i].random(self.DRAWS) for i in rows.tolist()])
                ).to(rows.device)
            ids, logps = self._sample(logits, draws_N_D[rows, t % self.DRAWS], sampling)
            ids_N_T[rows, t], logps_N_T[rows, t] = ids, logps
            stops = rows[torch.isin(ids, self.stop_ids) & ~stopped_N[rows]]
            stopped_N[stops], length_N[stops] = True, t + 1
            running = ~stopped_N[rows]
            still = int(running.sum())
            if still == 0 or t + 1 == max_tokens:
                break
            if still <= self.COMPACT * len(
                rows
            ):  # dropping rows copies the cache, so not for every one that stops
                keep = running.nonzero().squeeze(-1)
                cache.batch_select_indices(keep)
                rows, ids, mask, position = rows[keep], ids[keep], mask[keep], position[keep]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = self._forward(ids[:, None], mask, position, cache)
            position = position + 1

        ids_N_T, logps_N_T = ids_N_T.to("cpu", torch.int32).numpy(), logps_N_T.cpu().numpy()
        ends = zip(ids_N_T, logps_N_T, length_N.tolist(), stopped_N.tolist(), strict=True)
        samples = [
            (ids[:length].copy(), logps[:length].copy(), not stopped)
            for ids, logps, length, stopped in ends
        ]
        prompt_ids = [np.array(prompt, np.int32) for prompt in prompts]
        return [
            [Rollout(prompt, *sample) for sample in samples[p * n : (p + 1) * n]]
            for p, prompt in enumerate(prompt_ids)
        ]

    def _forward(self, ids, mask, positions, cache) -> torch.Tensor:
        """Logits [rows, V] of the last position."""
        outputs = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return outputs.logits[:, -1, : self.vocabulary].float()

    def _sample(self, logits, draws, sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """Inverse-CDF sampling, one uniform number a row -> (ids [rows], log-probs [rows]). Temperature 0 is greedy."""
        temperature, top_p, top_k = sampling.temperature, sampling.top_p, sampling.top_k
        scaled = logits / (temperature or 1.0)
        if top_k > 0:
            kth = scaled.topk(min(top_k, scaled.shape[-1])).values[:, -1:]
            scaled = scaled.masked_fill(scaled < kth, -torch.inf)
        if top_p < 1.0:
            descending, order = scaled.sort(dim=-1, descending=True)
            before = descending.softmax(dim=-1).cumsum(dim=-1) - descending.softmax(dim=-1)
            scaled = scaled.masked_fill(
                (before >= top_p).gather(-1, order.argsort(dim=-1)), -torch.inf
            )
        log_probs = scaled.log_softmax(dim=-1)
        if temperature == 0:
            ids = logits.argmax(dim=-1)
        else:
            cdf = log_probs.double().exp().cumsum(dim=-1)
            ids = torch.searchsorted(cdf, (draws * cdf[:, -1])[:, None], right=True).squeeze(-1)
        reported = logits.log_softmax(dim=-1) if self.raw_logps else log_probs
        return ids, reported.gather(-1, ids[:, None]).squeeze(-1)

    def load_weights(self, policy) -> None:
        """Replace the engine's weights by the policy's, cast to the engine's dtype."""
        self.model.load_state_dict(dict(policy.full_state()))

    def sleep(self) -> None:
        """Nothing: no memory is set aside between calls."""

    def wake(self) -> None:
        """Nothing, see sleep."""
