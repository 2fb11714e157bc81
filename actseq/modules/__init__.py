"""Blocks that families of networks share."""
