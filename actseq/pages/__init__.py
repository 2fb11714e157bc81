"""Web pages: their templates, their style, and the player of sounds."""
