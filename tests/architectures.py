"""Tiny random models of every architecture that transformers builds, and their tokenizer."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

ALL = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 288

# {size: the names that architectures give to it}
SIZES = {
    64: "hidden_size n_embd d_model dim decoder_hidden_size rnn_width lru_width embedding_size",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers "
    "num_key_value_heads n_kv_heads num_experts_per_tok moe_topk top_k moe_k",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
    "encoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts",
    128: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size "
    "max_position_embeddings n_positions max_seq_len n_ctx max_seq_length",
    96: "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size",
    16: "head_dim attention_head_size rotary_dim",
}
# What an architecture needs beside, mostly sizes that must fit each other.
MORE = {}


def tiny_config(name: str):
    """A config of that model type with 2 layers, 64 wide, and a vocabulary of 288."""
    config = AutoConfig.for_model(name)
    _shrink(config)
    text = config.get_text_config(decoder=True)
    if text is not config:
        _shrink(text)
    for key, value in MORE.get(name, {}).items():
        setattr(text, key, value)
    # Built anew, so that what a config derives from its sizes (layer types, ...) is derived again.
    return config


def _shrink(config) -> None:
    values = config.to_dict()
    for size, names in SIZES.items():
        for name in names.split():
            if isinstance(values.get(name), int):
                setattr(config, name, size)
    config.vocab_size = VOCABULARY
    for name in ("layer_types", "layers_block_type", "block_types", "mlp_layer_types"):
        if isinstance(values.get(name), list):
            setattr(config, name, values[name][:2])


def build(name: str, seed: int = 0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(tiny_config(name)).eval()
