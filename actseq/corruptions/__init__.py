"""What is done to sounds that a network learns to undo or to ignore."""
