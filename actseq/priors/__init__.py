"""How sequences of latents unfold."""
