"""Waveform → features: what the autoencoder sees."""
