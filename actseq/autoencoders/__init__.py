"""Features ↔ latents."""
