"""The sizes of a model that its memory and time follow from, by its config.json.

Parameter counts agree with transformers' own models (tests/test_bench.py).
"""

from dataclasses import dataclass, replace

GB = 1e9
# Of vLLM's share of a GPU, for its activations and CUDA graphs. An allowance, not measured.
ENGINE_RESERVE = 2 * GB

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
    """A Qwen2- or Qwen3-like model."""

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
        head_dim = getattr(config, "head_dim", None) or same["hidden"] // same["heads"]
        return cls(**same, head_dim=head_dim, bias=config.model_type == "qwen2")

    def config(self, **more):
        """As a transformers config."""
        from transformers import Qwen2Config, Qwen3Config

        if not self.bias:
            more |= {"head_dim": self.head_dim}
        kind = Qwen2Config if self.bias else Qwen3Config
        return kind(**{theirs: getattr(self, ours) for ours, theirs in NAMES.items()}, **more)


QWEN_1_5B = Shape(1536, 8960, 28, 12, 2, 128, 151936, tied=True)
SHAPES = {  # by the last part of a hub id
    "DeepSeek-R1-Distill-Qwen-1.5B": replace(QWEN_1_5B, tied=False),
    "Qwen2.5-Math-1.5B": QWEN_1_5B,
    "Qwen2.5-3B": Shape(2048, 11008, 36, 16, 2, 128, 151936, tied=True),
    "Qwen2.5-7B": Shape(3584, 18944, 28, 28, 4, 128, 152064, tied=False),
    "Qwen3-0.6B-Base": Shape(1024, 3072, 28, 16, 8, 128, 151936, tied=True, bias=False),
    "Qwen3-4B-Base": Shape(2560, 9728, 36, 32, 8, 128, 151936, tied=True, bias=False),
    "Qwen3-8B-Base": Shape(4096, 12288, 36, 32, 8, 128, 151936, tied=False, bias=False),
}


def parameters(shape: Shape) -> int:
    """All weights of the model.

    Of a layer: q, k, v, o, gated MLP, two norms, and q's and k's biases or norms. Beside them the
    embedding, the head where it is not the embedding, and the last norm.
    """
    d, q, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = d * (q + 2 * kv) + q * d + (q + 2 * kv if shape.bias else 2 * shape.head_dim)
    layer = attention + 3 * d * shape.intermediate + 2 * d
    return shape.layers * layer + shape.vocabulary * d * (1 if shape.tied else 2) + d


def kv_bytes_per_token(shape: Shape) -> int:
    """Key and value of every layer, bfloat16."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * 2


def engine_tokens(shape: Shape, gigabytes: float, share: float) -> int:
    """Tokens of key-value cache in vLLM's share of a GPU; below one context it does not start."""
    cache = share * gigabytes * GB - 2 * parameters(shape) - ENGINE_RESERVE
    return max(0, int(cache / kv_bytes_per_token(shape)))


def training_flops(shape: Shape, sequences: float, length: float, passes: float = 3) -> float:
    """Floating-point operations of training on sequences of one length.

    passes: in units of a forward pass; 3 are forward and backward. A forward pass takes 2
    operations a weight and token. Causal attention multiplies each of the T tokens with T / 2
    others, twice (q k and p v): 2 T^2 q a layer. A tied embedding counts once, as the head.
    """
    embedding = 0 if shape.tied else shape.vocabulary * shape.hidden  # a look-up
    weights = 2 * (parameters(shape) - embedding) * length
    attention = 2 * length**2 * shape.heads * shape.head_dim * shape.layers
    return passes * sequences * (weights + attention)
