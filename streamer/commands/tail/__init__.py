"""Live views of a dataset on a terminal."""
