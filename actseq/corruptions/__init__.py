"""Damage to the input of a network, which it learns to remove or to ignore."""
