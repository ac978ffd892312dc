"""Who answers: vLLM on GPUs, transformers on a CPU."""
