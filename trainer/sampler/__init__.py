"""Sampling: vLLM on GPUs, transformers on a CPU."""
