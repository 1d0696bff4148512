"""What imports torch, besides pipelines.py and stages/."""
