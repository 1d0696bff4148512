"""Model files: where they are and what they hold, found without torch."""
