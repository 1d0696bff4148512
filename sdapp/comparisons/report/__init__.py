"""The report of a comparison: HTML, plots and contact sheets."""
