"""HTML pages that work offline, and what they share: style, viewer, policy."""
