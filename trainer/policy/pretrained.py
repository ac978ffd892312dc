"""Open a model folder or hub id: weights, tokenizer, end tokens, limits.

A folder that cannot be used raises Refused, in one sentence, before anything is trained.
transformers is imported where it is used: that takes seconds, which --help can do without.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from trainer.errors import Refused, refuse_pointer


@contextmanager
def or_refuse(sentence: str) -> Iterator[None]:
    """Turn a fault of transformers, or of a model's code, into Refused: the sentence and a reason.

    What is not the model's fault (out of memory, a dead rank) passes through.
    """
    try:
        yield
    except (Refused, MemoryError, torch.OutOfMemoryError, dist.DistError):
        raise
    except Exception as error:  # a folder that is damaged, or of another kind, may raise anything
        lines = str(error).strip().replace(":\n", ":").splitlines() or [type(error).__name__]
        raise Refused(f"{sentence}: {lines[0].strip()}") from error


def load_model(model_dir: str, dtype: torch.dtype):
    """A causal language model. Raises Refused, in one sentence, when model_dir holds none."""
    check_folder(folder := Path(model_dir))
    for path in folder.glob("*.safetensors"):
        refuse_pointer(path)
    from transformers import AutoModelForCausalLM

    with or_refuse(f"cannot load a language model from {model_dir}"):
        model, report = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, output_loading_info=True
        )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"{len(missing)} of its weights are missing, {missing[0]} for one")
    if config := getattr(model, "generation_config", None):
        try:
            config.validate(strict=True)
        except ValueError:  # transformers would refuse to save its temperature and top_p
            config.do_sample = True
    return model


def checkpoint_activations(model) -> None:
    """Recompute each block's activations in the backward pass instead of keeping them.

    Blocks do so only in training mode, which also turns on dropout. So only the blocks themselves
    are put into training mode, and their own dropout is set to 0. Raises Refused for a model that
    cannot recompute.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not blocks or not model.supports_gradient_checkpointing:
        name = type(model).__name__
        raise Refused(f"{name} cannot recompute activations: add --gradient_checkpointing false")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for block in blocks:
        block.training = True
        for name, value in vars(block).items():
            if "drop" in name and isinstance(value, float):
                setattr(block, name, 0.0)


def blocks_of(model) -> list[nn.Module]:
    """The layers of the decoder: the largest list of modules in it, whatever its name."""
    decoder = model.get_decoder() or model
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters())))


def has_full_attention(model) -> bool:
    """Whether every layer has full attention, which the model looks up by name."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=model.config).layers
    by_name = model._supports_attention_backend and model.config._attn_implementation == "sdpa"
    return by_name and len(layers) > 0 and all(type(layer) is DynamicLayer for layer in layers)


def load_tokenizer(model_dir: str):
    """The tokenizer of a folder or hub id. Raises Refused when there is none.

    A tokenizer.json is opened as it is. AutoTokenizer would rebuild some kinds from their
    vocabulary, with rules of its own, and encode differently.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder, tokenizer = Path(model_dir), None
    if not folder.exists() or (folder / "tokenizer.json").exists():
        with or_refuse(f"cannot load a tokenizer from {model_dir}"):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(model_dir)
    else:
        check_folder(folder)
        with suppress(Exception):  # see or_refuse
            tokenizer = AutoTokenizer.from_pretrained(model_dir)
    # Without any tokenizer file, transformers may still open an empty one.
    if tokenizer is None or not tokenizer("1 + 1").input_ids:
        raise Refused(
            f"{model_dir} holds no tokenizer that transformers can open, such as tokenizer.json: "
            f"give a folder with a model and its tokenizer, or a hub id"
        )
    return tokenizer


def end_tokens(model_dir: str, tokenizer) -> list[int]:
    """Every id that ends a response, from the tokenizer, generation_config.json and config.json.

    Raises Refused if none of them names one.
    """
    from transformers import GenerationConfig, PreTrainedConfig

    found = [tokenizer.eos_token_id]
    with suppress(OSError):  # many base models carry no generation_config.json
        found.append(GenerationConfig.from_pretrained(model_dir).eos_token_id)
    # The file as it is: a config object would add its architecture's default.
    written, _ = PreTrainedConfig.get_config_dict(model_dir)
    parts = [written, *(part for part in written.values() if isinstance(part, dict))]
    found += [part.get("eos_token_id") for part in parts]
    ids = {i for eos in found for i in (eos if isinstance(eos, list) else [eos]) if i is not None}
    if not ids:
        raise Refused(
            f"nothing in {model_dir} names an end token, so no response could end: give "
            f"eos_token in tokenizer_config.json, or eos_token_id in generation_config.json"
        )
    return sorted(ids)


def check_folder(folder: Path) -> None:
    if (folder / "checkpoints").is_dir():
        raise Refused(f"{folder} is a run's folder: give one of those in its checkpoints/")
    if (folder / "adapter_config.json").exists():
        raise Refused(f"{folder} is a LoRA adapter: merge it into its model, and give the result")
    if folder.exists() and not (folder / "config.json").exists():
        raise Refused(
            f"{folder} holds no config.json: give a folder written by save_pretrained, or a hub id"
        )


def check_limits(model_dir: str, tokenizer, longest: int) -> None:
    """Raise Refused if the model has too few embeddings for the tokenizer, or too few positions.

    longest: prompt + response, in tokens.
    """
    config = _text_config(model_dir)
    positions = _positions(config)
    if 0 < positions < longest:
        raise Refused(
            f"a prompt and its response may take {longest} tokens, but the model has "
            f"{positions} positions: lower --max_prompt_tokens, --max_response_tokens or "
            f"--eval_max_tokens"
        )
    rows = getattr(config, "vocab_size", math.inf)
    named = {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
    template = str(tokenizer.chat_template or "")
    ends = {tokenizer.eos_token, tokenizer.bos_token}
    for token, i in tokenizer.get_vocab().items():
        # Some models have added tokens, such as those for images, without an embedding.
        if i >= rows and (token not in named or token in template or token in ends):
            raise Refused(
                f"the tokenizer of {model_dir} has id {i} ({token!r}), but the model has only "
                f"{rows} embeddings: the two do not belong together"
            )


def context_length(model_dir: str) -> float:
    """The longest sequence that a model was made for, in tokens; infinite without such a limit.

    Raises Refused where the model's config cannot be read.
    """
    return _positions(_text_config(model_dir))


def _text_config(model_dir):
    from transformers import AutoConfig

    check_folder(Path(model_dir))
    with or_refuse(f"cannot read the config of {model_dir}"):
        return AutoConfig.from_pretrained(model_dir).get_text_config(decoder=True)


def _positions(config) -> float:
    positions = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None)
    kinds = [rope or {}, *(kind for kind in (rope or {}).values() if isinstance(kind, dict))]
    for kind in kinds:  # a stretched RoPE reaches further than it was trained for
        first = kind.get("original_max_position_embeddings")
        if positions and first and kind.get("factor"):
            positions = max(positions, int(first * kind["factor"]))
    return positions if positions and positions > 0 else math.inf
