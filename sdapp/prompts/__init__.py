"""Prompt files: formats, keys, templates, seeds."""
