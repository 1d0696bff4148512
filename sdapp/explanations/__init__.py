"""The process of one run made visible: a page that explains how an image was painted."""
