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
    8: "sliding_window mamba_chunk_size",
}
# What an architecture needs beside: sizes that fit each other, or features off by default.
EXPERTS = dict(n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2)
LATENT = dict(
    head_dim=16,
    q_lora_rank=32,
    kv_lora_rank=16,
    qk_nope_head_dim=16,
    qk_rope_head_dim=16,
    qk_head_dim=32,
    v_head_dim=16,
    num_key_value_heads=4,
)
STATES = dict(mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16)
DECODER = dict(is_decoder=True)
MORE = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "youtu"), EXPERTS | LATENT),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "glm4_moe_lite"), EXPERTS | LATENT),
    **dict.fromkeys(("minicpm3", "longcat_flash"), LATENT),
    "bamba": STATES | dict(attn_layer_indices=[1]), "granitemoehybrid": STATES,
    **dict.fromkeys(("bert", "bert-generation", "camembert", "electra", "ernie"), DECODER),
    **dict.fromkeys(("roberta", "xlm-roberta", "rembert", "megatron-bert", "reformer"), DECODER),
    "cohere_compass_text": dict(layer_types=["full_attention", "full_attention"]),
    "dots1": EXPERTS | dict(n_shared_experts=1),
    "falcon_h1": STATES | dict(lm_head_multiplier=0.25, mamba_d_ssm=128),
    "gemma3n_text": dict(vocab_size_per_layer_input=288, hidden_size_per_layer_input=16),
    "gemma4_text": dict(vocab_size_per_layer_input=288, hidden_size_per_layer_input=16),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]],
        attention_layers=["global", "local"]),
    "granite": dict(logits_scaling=6.0, attention_multiplier=0.3, residual_multiplier=0.5),
    "granitemoe": dict(logits_scaling=3.0),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2),
    "lfm2": dict(layer_types=["conv", "full_attention"]),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"], num_dense_layers=1),
    "mamba2": dict(num_heads=8, head_dim=16, n_groups=1, state_size=16, chunk_size=8),
    "opt": dict(word_embed_proj_dim=32),  # its head takes a projection of the last hidden state
    "qwen3_5_text": dict(layer_types=["linear_attention", "full_attention"]),
    "qwen3_next": dict(layer_types=["linear_attention", "full_attention"]),
    "xlm": dict(causal=True, emb_dim=64), "xlstm": dict(embedding_dim=64, num_blocks=2),
}  # fmt: skip


def tiny_config(name: str):
    """A config of that model type with 2 layers, 64 wide, and a vocabulary of 288."""
    config = AutoConfig.for_model(name)
    _shrink(config)
    text = config.get_text_config(decoder=True)
    if text is not config:
        _shrink(text)
    for key, value in MORE.get(name, {}).items():
        setattr(text, key, value)
    return config


def _shrink(config) -> None:
    values = config.to_dict()
    for size, names in SIZES.items():
        for name in names.split():
            is_size = isinstance(values.get(name), int | list) or name in (
                "head_dim",
                "num_key_value_heads",
            )
            if name in values and is_size:
                setattr(config, name, size)
    if "qk_rope_head_dim" in values:
        config.head_dim = values["qk_rope_head_dim"]
    config.vocab_size = VOCABULARY
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, 2
    for name in ("layer_types", "layers_block_type", "block_types", "mlp_layer_types"):
        if isinstance(values.get(name), list):
            setattr(config, name, values[name][:2])


def build(name: str, seed: int = 0):
    """The model, with lively weights: peaked enough distributions, no two positions alike."""
    with torch.device("meta"):  # sizes that tiny_config does not know may be those of a real model
        size = AutoModelForCausalLM.from_config(tiny_config(name)).num_parameters()
    if size > 2e7:
        raise ValueError(f"{name} would have {size / 1e6:.0f} million parameters")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(name)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def byte_tokenizer(end: str = "</s>") -> PreTrainedTokenizerFast:
    """A token for each of the 256 bytes, and others up to the models' vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(["<pad>", "<s>", end, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([f"<{i}>" for i in range(len(vocabulary), VOCABULARY)])
    special = dict(pad_token="<pad>", bos_token="<s>", eos_token=end)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
