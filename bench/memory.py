"""GPU memory of a run, from a formula: does it fit, and how large may --tokens_per_micro_batch be?

    python bench/memory.py                       the README's table: Qwen2.5-1.5B by context length, GPU and ranks
    python bench/memory.py --untied              DeepSeek-R1-Distill-Qwen-1.5B: the same with a head of its own
    python bench/memory.py --model DIR           any Qwen2-like model, from its config.json
    python bench/memory.py --check               the formula's activations against a small model's measured peak on CPU

**Computed, not measured on a GPU.** What a CPU can check is checked: parameter counts against transformers' own models
(tests/test_bench.py), and bytes of activations a token against the peak of a small model (--check).

What is counted follows policy.py and rollout.py: float32 master weights, gradients and AdamW moments, sharded over
the ranks by FSDP2; bfloat16 copies of what is being computed with, whole; one saved hidden state a layer (gradient
checkpointing); one layer recomputed at a time; the head in chunks; the engine asleep while the trainer works.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.common import one_thread, save

HERE = Path(__file__).resolve().parent
GB = 1e9
CHUNK = 512  # rows of logits at once, losses.token_logps
RESERVE = (
    2.0 * GB
)  # CUDA context, NCCL, the sleeping engine's remains, fragmentation: an allowance, not a measurement
ENGINE_SHARE = 0.35  # of the GPU's memory, VLLM_MEMORY's default
ENGINE_OVERHEAD = 2.0 * GB  # vLLM's own activations and CUDA graphs: an allowance
GPUS = {"24 GB": 24, "40 GB": 40, "80 GB": 80, "141 GB": 141}
CONTEXTS = (4096, 8192, 16384, 32768)


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

    @classmethod
    def of(cls, config) -> "Shape":
        """From a transformers config."""
        same = {ours: getattr(config, theirs) for ours, theirs in NAMES.items()}
        head_dim = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        return cls(**same, head_dim=head_dim)

    def config(self, **more):
        """A Qwen2Config of this shape, with what else is given."""
        from transformers import Qwen2Config  # here: only who builds a model waits for it

        return Qwen2Config(
            **{theirs: getattr(self, ours) for ours, theirs in NAMES.items()}, **more
        )


QWEN_1_5B = Shape(1536, 8960, 28, 12, 2, 128, 151936, tied=True)


def layer_parameters(shape: Shape) -> int:
    """Weights of one Qwen2 layer: attention (q, k, v with bias, o without), gated MLP, two norms."""
    d, q, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = (d + 1) * (q + 2 * kv) + q * d
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

    Saved by autograd, in units of the compute dtype b: two norms (input in float32, normalised, scaled), rotated q and
    k, v, the attention's output, the residual; gate, its SiLU and up in the MLP (their product is gone by then). On top
    the gradients in flight: of the product, of the SiLU and of up; and of the residual stream.
    """
    b, d = dtype_bytes, shape.hidden
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * ((4 if b < 4 else 0) + 2 * b) * d  # in float32 the upcast is no copy
    attention = b * (2 * q + 2 * kv)
    mlp = b * 3 * shape.intermediate
    gradients = b * (3 * shape.intermediate + d)
    return norms + attention + b * d + mlp + gradients


def training_peak(shape: Shape, tokens: int, ranks: int) -> float:
    """Bytes on one GPU at the fullest moment of an update with micro-batches of `tokens` padded tokens.

    The largest of four moments, beside the state:
        head      checkpoints, two chunks of float32 logits and one of bfloat16, the head's gradient in both
        layers    checkpoints, one layer's recomputed activations, two layers' gathered weights, the head's gradient
        end       the embedding's and the head's gradients, and their sum in float32 to be reduced
        AdamW     one temporary of the size of the share of the weights
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
    adamw = 4 * parameters(shape) / ranks - gathered
    return state_bytes(shape, ranks) + gathered + max(head, layers, end, adamw) + RESERVE


def reference_peak(shape: Shape, tokens: int, ranks: int) -> float:
    """Bytes on one GPU while a bfloat16 reference policy, whole on every rank, scores a micro-batch (ProRL)."""
    layer = tokens * (layer_bytes_per_token(shape) // 2 + 2 * shape.hidden * 2)
    head = CHUNK * shape.vocabulary * (2 * 4 + 2)
    return state_bytes(shape, ranks) + 2 * parameters(shape) + max(layer, head) + RESERVE


def kv_bytes_per_token(shape: Shape) -> int:
    """Key and value of every layer, bfloat16."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * 2


def engine_sequences(shape: Shape, context: int, gpu_bytes: float) -> int:
    """Full-length sequences that the engine's share of the GPU decodes at once; below 1 it does not start."""
    cache = ENGINE_SHARE * gpu_bytes - 2 * parameters(shape) - ENGINE_OVERHEAD
    return max(0, int(cache / (context * kv_bytes_per_token(shape))))


def sampling_peak(shape: Shape, ranks: int, gpu_bytes: float) -> float:
    """Bytes on one GPU while the engine is awake: its share, the trainer's weights and moments, one whole tensor."""
    return (
        ENGINE_SHARE * gpu_bytes
        + 12 * parameters(shape) / ranks
        + 4 * shape.vocabulary * shape.hidden
        + RESERVE
    )


def largest_micro_batch(
    shape: Shape, context: int, gpu_bytes: float, ranks: int, reference: bool
) -> int:
    """The largest --tokens_per_micro_batch that fits, in steps of 1,024 tokens; 0 where one sequence does not.

    A micro-batch holds at least one sequence, so less than the context length is no use.
    """
    if (
        engine_sequences(shape, context, gpu_bytes) < 1
        or sampling_peak(shape, ranks, gpu_bytes) > gpu_bytes
    ):
        return 0

    def fits(tokens: int) -> bool:
        peaks = [training_peak(shape, tokens, ranks)]
        if reference:
            peaks.append(reference_peak(shape, tokens, ranks))
        return max(peaks) <= gpu_bytes

    steps = 0
    while fits((steps + 1) * 1024) and steps < 1024:
        steps += 1
    return steps * 1024 if steps * 1024 >= context else 0


def table(shape: Shape, reference: bool) -> str:
    """The Markdown table: largest micro-batch (1,024 tokens) / full-length sequences the engine decodes at once."""
    columns = [(name, ranks) for ranks in (1, 8) for name in GPUS]
    heads = [f"{ranks} x {name}" for name, ranks in columns]
    lines = ["| context | " + " | ".join(heads) + " |", "|---:|" + "---:|" * len(columns)]
    for context in CONTEXTS:
        cells = []
        for name, ranks in columns:
            tokens = largest_micro_batch(shape, context, GPUS[name] * GB, ranks, reference)
            decoded = engine_sequences(shape, context, GPUS[name] * GB)
            cells.append(f"{tokens // 1024}k / {decoded}" if tokens else "no")
        lines.append(f"| {context // 1024}k | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(shape: Shape, tokens: int) -> int:
    """Peak bytes of a forward and backward pass of policy.py over `tokens` tokens on CPU, above the model's own."""
    import torch
    from transformers import Qwen2ForCausalLM

    from bench.logps import high_water, resident
    from trainer.policy import MicroBatch, load_policy, start_ranks

    start_ranks()
    with tempfile.TemporaryDirectory() as folder:
        Qwen2ForCausalLM(shape.config()).save_pretrained(folder)
        policy = load_policy(
            folder, torch.device("cpu"), torch.float32, gradient_checkpointing=True
        )

    def once(rows: int, length: int) -> None:
        ids_B_T = torch.randint(shape.vocabulary, (rows, length))
        mask_B_T = torch.ones_like(ids_B_T, dtype=torch.bool)
        mask_B_T[:, 0] = False
        nothing_M = torch.zeros(0)
        logps_M, _ = policy(MicroBatch(ids_B_T, mask_B_T, nothing_M, nothing_M, nothing_M), 1.0)
        logps_M.mean().backward()

    once(2, 64)  # the gradients exist from here on
    before = resident()
    once(tokens // 512, 512)
    return high_water() - before


def check(shape: Shape, tokens: int) -> dict:
    """Bytes of activations a token in float32, by the formula and measured: the slope between `tokens` and twice."""
    # Every tensor in pages of its own: a heap that keeps freed pieces would count as activations.
    environment = one_thread() | {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
    peaks = []
    for count in (tokens, 2 * tokens):
        command = [
            sys.executable,
            __file__,
            "--measure",
            str(count),
            "--shape",
            json.dumps(vars(shape)),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"memory.py: the measurement failed:\n{done.stderr[-2000:]}")
        peaks.append(int(done.stdout.splitlines()[-1]))
    computed = checkpoint_bytes_per_token(shape, 4) + layer_bytes_per_token(shape, 4)
    measured = (peaks[1] - peaks[0]) / tokens
    return {"shape": vars(shape), "tokens": tokens, "computed": computed, "measured": measured} | {
        "computed_over_measured": computed / measured
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder with a config.json")
    parser.add_argument(
        "--untied", action="store_true", help="a head of its own, as DeepSeek-R1-Distill-Qwen-1.5B"
    )
    parser.add_argument("--check", action="store_true", help="measure a small model on this CPU")
    parser.add_argument("--check_tokens", type=int, default=2048)
    parser.add_argument("--out", default=str(HERE / "results/memory.json"))
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(Shape(**arguments.shape), arguments.measure))
        return
    shape = QWEN_1_5B
    if arguments.model:
        from transformers import AutoConfig

        shape = Shape.of(AutoConfig.from_pretrained(arguments.model))
    if arguments.untied:
        shape = Shape(**(vars(shape) | {"tied": False}))
    result = {
        "what": "computed, not measured on a GPU",
        "shape": vars(shape),
        "parameters": parameters(shape),
    }
    result["gb"] = {
        "state on one rank": state_bytes(shape, 1) / GB,
        "activations a thousand tokens": 1e3
        * (checkpoint_bytes_per_token(shape) + layer_bytes_per_token(shape))
        / GB,
        "training peak, 16k tokens, one rank": training_peak(shape, 16384, 1) / GB,
        "key-value cache a thousand tokens": 1e3 * kv_bytes_per_token(shape) / GB,
    }
    print(f"{parameters(shape) / 1e9:.2f} B parameters; computed, not measured on a GPU.")
    print("Largest --tokens_per_micro_batch / full-length sequences each engine decodes at once,")
    print("by context length (prompt + response) and GPUs:\n")
    for reference in (False, True):
        title = (
            "with a reference policy (ProRL)"
            if reference
            else "without a reference policy (JustRL, Lite PPO)"
        )
        result[title] = table(shape, reference)
        print(f"{title}\n\n{result[title]}\n")
    if arguments.check:
        small = [
            Shape(256, 768, 12, 4, 4, 64, 1000, tied=True),
            Shape(128, 1024, 4, 2, 2, 64, 1000, tied=True),
        ]
        result["check"] = [check(shape, arguments.check_tokens) for shape in small]
        for row in result["check"]:
            print({key: row[key] for key in ("computed", "measured", "computed_over_measured")})
    save(arguments.out, result)


if __name__ == "__main__":
    main()
