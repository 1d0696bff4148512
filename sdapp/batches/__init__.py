"""Prompt files painted into folders, resumable after any kill."""
