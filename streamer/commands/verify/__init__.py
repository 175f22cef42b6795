"""``streamer verify``: checks a dataset line by line."""
