"""Training: the model, its log-probs, the optimizer."""
