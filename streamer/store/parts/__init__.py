"""The files of a dataset: their names, their order, and positions in them."""
