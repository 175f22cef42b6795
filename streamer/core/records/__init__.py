"""Records: their layouts, messages, keys and dataset lines."""
