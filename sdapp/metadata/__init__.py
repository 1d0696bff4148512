"""Settings inside image files: our record, and what other tools write."""
