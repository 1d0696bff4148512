"""`python -m sdapp`."""

from sdapp.cli import run

run()
