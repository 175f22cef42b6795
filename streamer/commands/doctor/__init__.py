"""``streamer doctor``: checks of a configuration and its surroundings."""
