"""The training loop and the learning-rate finder."""
