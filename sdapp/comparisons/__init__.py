"""Comparisons of schedulers: planned, painted, measured and read back."""
