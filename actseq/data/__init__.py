"""A folder of sounds as training data."""
