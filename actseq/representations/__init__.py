"""Waveform → features, the input of the autoencoder."""
