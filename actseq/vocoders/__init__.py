"""Features → waveform."""
