"""What is trained: the model, its log-probs, the optimizer."""
