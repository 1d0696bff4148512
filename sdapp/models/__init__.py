"""Model files: find them and read what they hold, without torch."""
