"""The sizes of models, and the memory and operations that follow from a model's config.json."""

import sys

from transformers import AutoConfig, PretrainedConfig

from trainer.errors import Refused
from trainer.run.launch import model_folder

GB = 1e9
# Of vLLM's share of a GPU, for its activations and CUDA graphs. An allowance, not measured.
ENGINE_RESERVE = 2 * GB

# What memory and time follow from, of models by the last part of a hub id.
FIELDS = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers")
FIELDS += ("num_attention_heads", "num_key_value_heads", "vocab_size", "tie_word_embeddings")
MODELS = {
    "DeepSeek-R1-Distill-Qwen-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 151936, False),
    "Qwen3-0.6B-Base": ("qwen3", 1024, 3072, 28, 16, 8, 151936, True),
    "Qwen3-4B-Base": ("qwen3", 2560, 9728, 36, 32, 8, 151936, True),
    "Qwen3-8B-Base": ("qwen3", 4096, 12288, 36, 32, 8, 151936, False),
    "toy": ("qwen2", 64, 128, 2, 2, 1, 2000, True),
}


def config_of(name: str, **changes) -> PretrainedConfig:
    """The config of one of MODELS by its hub id, or its last part, or else of a model at hand."""
    if known := MODELS.get(name.split("/")[-1]):
        return AutoConfig.for_model(**dict(zip(FIELDS, known, strict=True)) | changes)
    try:
        return AutoConfig.from_pretrained(model_folder(name), **changes)
    except (OSError, Refused) as error:
        sys.exit(f"--model {name} has no config.json that can be read: {error}")


def head_dim(model: PretrainedConfig) -> int:
    return getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads


def parameters(model: PretrainedConfig) -> int:
    """All weights of a Qwen2 or Qwen3. They are those of transformers' models (test_bench.py).

    A layer has q, k, v, o, a gated MLP, two norms, and q's and k's biases or norms. The model also
    has the embedding, the head if that is not the embedding, and the last norm.
    """
    d, size = model.hidden_size, head_dim(model)
    q, kv = model.num_attention_heads * size, model.num_key_value_heads * size
    biases_or_norms = q + 2 * kv if model.model_type == "qwen2" else 2 * size
    attention = d * (q + 2 * kv) + q * d + biases_or_norms
    layer = attention + 3 * d * model.intermediate_size + 2 * d
    embeddings = model.vocab_size * d * (1 if model.tie_word_embeddings else 2)
    return model.num_hidden_layers * layer + embeddings + d


def kv_bytes_per_token(model: PretrainedConfig) -> int:
    """Key and value of every layer, bfloat16."""
    return 2 * model.num_hidden_layers * model.num_key_value_heads * head_dim(model) * 2


def engine_tokens(model: PretrainedConfig, gigabytes: float, share: float) -> int:
    """Tokens of key-value cache in vLLM's share of a GPU; below one context it does not start."""
    cache = share * gigabytes * GB - 2 * parameters(model) - ENGINE_RESERVE
    return max(0, int(cache / kv_bytes_per_token(model)))


def training_flops(
    model: PretrainedConfig, sequences: float, length: float, passes: float = 3
) -> float:
    """Floating-point operations of training on sequences of one length.

    passes: in units of a forward pass; 3 are forward and backward. A forward pass takes 2
    operations a weight and token. Causal attention multiplies each of the T tokens with T / 2
    others, twice (q k and p v): 2 T^2 q a layer. A tied embedding counts once, as the head.
    """
    multiplied = parameters(model)
    if not model.tie_word_embeddings:  # the embedding is only looked up
        multiplied -= model.vocab_size * model.hidden_size
    weights = 2 * multiplied * length
    width = model.num_attention_heads * head_dim(model)
    attention = 2 * length**2 * width * model.num_hidden_layers
    return passes * sequences * (weights + attention)
