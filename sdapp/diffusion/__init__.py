"""What imports torch, besides pipelines.py."""
