"""GPU memory of a run, from a formula: does it fit, and how large is --tokens_per_micro_batch?

    python -m bench.formula                 docs/running.md's tables: the three default models
    python -m bench.formula --model DIR     any Qwen2- or Qwen3-like model, from its config.json

**Computed, not measured on a GPU.** Parameter counts are checked against transformers' own models
(tests/test_bench.py).

What is counted follows trainer/policy/policy.py and trainer/sampler/engine.py: float32 master
weights, gradients and AdamW moments, sharded over the ranks by FSDP2, or in host memory with
--offload; bfloat16 copies of what is being computed with, whole; one saved hidden state a layer
(gradient checkpointing); one layer recomputed at a time; the head in chunks; the engine asleep
while the trainer works. Where the ranks add up their gradients once an update, each holds a whole
gradient until then.
"""

import argparse
from dataclasses import dataclass, replace

from bench.common import save
from trainer.policy.loading import REDUCE_ONCE

GB = 1e9
CHUNK = 512  # rows of logits at once, losses.token_logps
# Allowances, not measurements: CUDA context, NCCL, the sleeping engine's remains, fragmentation;
# and vLLM's own activations and CUDA graphs.
RESERVE = 2.0 * GB
ENGINE_OVERHEAD = 2.0 * GB
ENGINE_SHARE = 0.35  # of the GPU's memory, --engine_memory's default
GPUS = {"24 GB": 24, "40 GB": 40, "80 GB": 80, "141 GB": 141}
RANKS = (1, 8, 32)


# {a Shape's field: that of a transformers config}
NAMES = {
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "vocabulary": "vocab_size",
    "tied": "tie_word_embeddings",
}


@dataclass(frozen=True)
class Shape:
    """What the memory of a Qwen2-like model depends on."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    bias: bool = True  # of q, k and v (Qwen2); without it, q and k are normalised (Qwen3)

    @classmethod
    def of(cls, config) -> "Shape":
        """From a transformers config."""
        same = {ours: getattr(config, theirs) for ours, theirs in NAMES.items()}
        head_dim = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        return cls(**same, head_dim=head_dim, bias=config.model_type == "qwen2")

    def config(self, **more):
        """A Qwen2Config or Qwen3Config of this shape, with what else is given."""
        from transformers import Qwen2Config, Qwen3Config  # here: only who builds a model waits

        kind = Qwen2Config if self.bias else Qwen3Config
        more |= {} if self.bias else {"head_dim": self.head_dim}
        return kind(**{theirs: getattr(self, ours) for ours, theirs in NAMES.items()}, **more)


QWEN_1_5B = Shape(1536, 8960, 28, 12, 2, 128, 151936, tied=True)
# {the recipes' default models: (shape, prompt + response in training, with a reference policy?)}
MODELS = {
    "R1-Distill-Qwen-1.5B (justrl.py)": (replace(QWEN_1_5B, tied=False), 1024 + 15360, False),
    "R1-Distill-Qwen-1.5B (prorl.py)": (replace(QWEN_1_5B, tied=False), 1024 + 8192, True),
    "Qwen3-4B-Base (liteppo.py)": (
        Shape(2560, 9728, 36, 32, 8, 128, 151936, tied=True, bias=False),
        1024 + 8192,
        False,
    ),
    "Qwen3-8B-Base (liteppo.py)": (
        Shape(4096, 12288, 36, 32, 8, 128, 151936, tied=False, bias=False),
        1024 + 8192,
        False,
    ),
}


def layer_parameters(shape: Shape) -> int:
    """Weights of one layer: q, k, v, o, gated MLP, two norms; q's and k's biases or norms."""
    d, q, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = d * (q + 2 * kv) + q * d + (q + 2 * kv if shape.bias else 2 * shape.head_dim)
    return attention + 3 * d * shape.intermediate + 2 * d


def root_parameters(shape: Shape) -> int:
    """Weights outside the layers: embedding, head where it is not the embedding, last norm."""
    return shape.vocabulary * shape.hidden * (1 if shape.tied else 2) + shape.hidden


def parameters(shape: Shape) -> int:
    """All weights of the model."""
    return shape.layers * layer_parameters(shape) + root_parameters(shape)


def state_bytes(shape: Shape, ranks: int) -> float:
    """A rank's share of float32 master weights (4), gradients (4) and AdamW's two moments (8)."""
    return 16 * parameters(shape) / ranks


def checkpoint_bytes_per_token(shape: Shape, dtype_bytes: int = 2) -> int:
    """The hidden state that gradient checkpointing saves before every layer, and the last one."""
    return (shape.layers + 1) * shape.hidden * dtype_bytes


def layer_bytes_per_token(shape: Shape, dtype_bytes: int = 2) -> int:
    """What the backward pass of one recomputed layer holds at its fullest, in the MLP.

    Saved by autograd, in units of the compute dtype b: two norms (input in float32, normalised,
    scaled), rotated q and k, v, the attention's output, the residual; gate, its SiLU and up in the
    MLP (their product is gone by then). On top the gradients in flight: of the product, of the SiLU
    and of up; and of the residual stream.
    """
    b, d = dtype_bytes, shape.hidden
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * ((4 if b < 4 else 0) + 2 * b) * d  # in float32 the upcast is no copy
    attention = b * (2 * q + 2 * kv)
    mlp = b * 3 * shape.intermediate
    gradients = b * (3 * shape.intermediate + d)
    return norms + attention + b * d + mlp + gradients


def reduced_once(shape: Shape, ranks: int, gpu_bytes: float) -> bool:
    """Whether the ranks add up their gradients once an update (policy.py's rule)."""
    return ranks > 1 and 4 * parameters(shape) <= REDUCE_ONCE * gpu_bytes


def training_peak(
    shape: Shape, tokens: int, ranks: int, gpu_bytes: float = 80 * GB, offload: bool = False
) -> float:
    """Bytes on one GPU at the fullest moment of an update.

    tokens: padded tokens of a micro-batch. The largest of these moments, beside the state:
        head      checkpoints, two chunks of float32 logits and one of bfloat16, the head's gradient
                  in both
        layers    checkpoints, one layer's recomputed activations, two layers' gathered weights, the
                  head's gradient
        end       the embedding's and the head's gradients, and their sum in float32 to be reduced
        AdamW     one temporary of the size of the share of the weights; in host memory with offload
    """
    matrix = shape.vocabulary * shape.hidden
    gathered = 2 * root_parameters(shape)
    checkpoints = tokens * checkpoint_bytes_per_token(shape)
    head = (
        checkpoints
        + 2 * tokens * shape.hidden * 2
        + CHUNK * shape.vocabulary * (2 * 4 + 2)
        + matrix * (4 + 2)
    )
    layers = (
        checkpoints
        + tokens * layer_bytes_per_token(shape)
        + 2 * layer_parameters(shape) * (2 + 4)
        + 2 * matrix
    )
    end = matrix * (2 + 2) + 4 * root_parameters(shape)
    moments = [head, layers, end]
    state = 0.0
    if not offload:
        state = state_bytes(shape, ranks)
        moments.append(4 * parameters(shape) / ranks - gathered)
    if reduced_once(shape, ranks, gpu_bytes):
        state += 4 * parameters(shape)
    return state + gathered + max(moments) + RESERVE


def reference_peak(shape: Shape, tokens: int, ranks: int, offload: bool = False) -> float:
    """Bytes on one GPU while a bfloat16 reference policy scores a micro-batch (ProRL).

    It is whole on every rank, and in host memory the rest of the time.
    """
    layer = tokens * (layer_bytes_per_token(shape) // 2 + 2 * shape.hidden * 2)
    head = CHUNK * shape.vocabulary * (2 * 4 + 2)
    state = 0.0 if offload else 12 * parameters(shape) / ranks
    return state + 2 * parameters(shape) + max(layer, head) + RESERVE


def host_bytes(shape: Shape, ranks_here: int, ranks: int, offload: bool, reference: bool) -> float:
    """Bytes of host memory on a machine with `ranks_here` of the ranks, at a save, the fullest.

    The engine's weights while it sleeps; a reference policy; the state with offload; and on rank 0
    AdamW's two moments whole, to be written.
    """
    rank = 2 * parameters(shape) * (2 if reference else 1)
    if offload:
        rank += state_bytes(shape, ranks)
    return ranks_here * rank + 8 * parameters(shape)


def kv_bytes_per_token(shape: Shape) -> int:
    """Key and value of every layer, bfloat16."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * 2


def engine_tokens(shape: Shape, gpu_bytes: float, share: float = ENGINE_SHARE) -> int:
    """Tokens of key-value cache in the engine's share of the GPU; below one context: no start."""
    cache = share * gpu_bytes - 2 * parameters(shape) - ENGINE_OVERHEAD
    return max(0, int(cache / kv_bytes_per_token(shape)))


def sampling_peak(
    shape: Shape,
    ranks: int,
    gpu_bytes: float,
    share: float = ENGINE_SHARE,
    offload: bool = False,
) -> float:
    """Bytes on one GPU while the engine is awake: its share, the trainer's state, one tensor."""
    state = 0.0 if offload else 12 * parameters(shape) / ranks
    return share * gpu_bytes + state + 4 * shape.vocabulary * shape.hidden + RESERVE


def largest_share(shape: Shape, ranks: int, gpu_bytes: float, offload: bool = False) -> float:
    """The largest --engine_memory that leaves the trainer its state, in steps of 0.05."""
    steps = [i / 20 for i in range(1, 19)]
    fits = [s for s in steps if sampling_peak(shape, ranks, gpu_bytes, s, offload) <= gpu_bytes]
    return max(fits, default=0.0)


def largest_micro_batch(
    shape: Shape,
    context: int,
    gpu_bytes: float,
    ranks: int,
    reference: bool,
    offload: bool = False,
) -> int:
    """The largest --tokens_per_micro_batch that fits, in steps of 1,024 tokens; 0 where none does.

    A micro-batch holds at least one sequence, so less than the context length is no use.
    """
    if (
        engine_tokens(shape, gpu_bytes) < context
        or sampling_peak(shape, ranks, gpu_bytes, offload=offload) > gpu_bytes
    ):
        return 0

    def fits(tokens: int) -> bool:
        peaks = [training_peak(shape, tokens, ranks, gpu_bytes, offload)]
        if reference:
            peaks.append(reference_peak(shape, tokens, ranks, offload))
        return max(peaks) <= gpu_bytes

    steps = 0
    while fits((steps + 1) * 1024) and steps < 1024:
        steps += 1
    return steps * 1024 if steps * 1024 >= context else 0


def fits_table(models: dict) -> str:
    """Markdown: the largest micro-batch, in 1,024 tokens, by model, GPU and ranks; no: none."""
    columns = [(1, True), *((ranks, False) for ranks in RANKS)]
    heads = [f"{ranks} GPU{'s' * (ranks > 1)}{', --offload' * off}" for ranks, off in columns]
    lines = ["| model | GPU | " + " | ".join(heads) + " |", "|---|---|" + "---:|" * len(columns)]
    for model, (shape, context, reference) in models.items():
        for gpu, size in GPUS.items():
            cells = [
                largest_micro_batch(shape, context, size * GB, ranks, reference, offload) // 1024
                for ranks, offload in columns
            ]
            cells = [f"{cell}k" if cell else "no" for cell in cells]
            lines.append(f"| {model} | {gpu} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def engine_table(models: dict) -> str:
    """Markdown: by model and GPU, tokens of cache at the default share, and the largest share."""
    heads = [f"{ranks} GPU{'s' * (ranks > 1)}" for ranks in RANKS]
    lines = [
        f"| model | GPU | tokens of cache at {ENGINE_SHARE} | "
        + " | ".join(f"largest share, {head}" for head in heads)
        + " |",
        "|---|---|---:|" + "---:|" * len(heads),
    ]
    seen = set()
    for model, (shape, _, _) in models.items():
        if shape in seen:
            continue
        seen.add(shape)
        for gpu, size in GPUS.items():
            shares = [largest_share(shape, ranks, size * GB) for ranks in RANKS]
            cells = [
                f"{share:.2f} ({engine_tokens(shape, size * GB, share) // 1000}k)"
                if share
                else "no"
                for share in shares
            ]
            tokens = engine_tokens(shape, size * GB) // 1000
            name = model.split(" (")[0]
            lines.append(f"| {name} | {gpu} | {tokens}k | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def host_table(models: dict) -> str:
    """Markdown: gigabytes of a machine's memory, by model and GPUs in it."""
    columns = [(1, 1, True), (1, 1, False), (8, 8, False), (8, 32, False)]
    heads = ["1 GPU, --offload", "1 GPU", "8 GPUs", "8 of 32 GPUs"]
    lines = ["| model | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(columns)]
    for model, (shape, _, reference) in models.items():
        cells = [
            f"{host_bytes(shape, here, ranks, offload, reference) / GB:.0f}"
            for here, ranks, offload in columns
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder with a config.json")
    parser.add_argument("--out", default="/tmp/memory.json")
    arguments = parser.parse_args()
    models = MODELS
    if arguments.model:
        from transformers import AutoConfig

        shape = Shape.of(AutoConfig.from_pretrained(arguments.model))
        models = {arguments.model: (shape, 4096, False)}
    result = {
        "what": "computed, not measured on a GPU",
        "models": {
            name: {
                "shape": vars(shape),
                "parameters": parameters(shape),
                "state_gb": state_bytes(shape, 1) / GB,
                "training_peak_gb_one_rank": training_peak(shape, context, 1) / GB,
                "kv_gb_a_thousand_tokens": 1e3 * kv_bytes_per_token(shape) / GB,
            }
            for name, (shape, context, _) in models.items()
        },
        "micro_batch": fits_table(models),
        "engine": engine_table(models),
        "host": host_table(models),
    }
    print("Computed, not measured on a GPU.\n")
    print(f"Largest --tokens_per_micro_batch\n\n{result['micro_batch']}\n")
    print(f"--engine_memory\n\n{result['engine']}\n")
    print(f"Gigabytes of host memory on a machine\n\n{result['host']}\n")
    save(arguments.out, result)


if __name__ == "__main__":
    main()
