"""What surrounds a run: flags, folder, metrics, checkpoints, the way out."""
