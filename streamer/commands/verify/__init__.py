"""``streamer verify``: checks of a dataset, line by line."""
