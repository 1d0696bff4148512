"""Settings before they are checked: layers, YAML, types, ranges."""
