"""Grids: images at every combination of the values of one, two or three settings."""
