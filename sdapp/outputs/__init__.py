"""Image files: names, encoding, writing."""
