"""The training loop, and what it consists of: model, plan, files, faults; the learning-rate finder."""
