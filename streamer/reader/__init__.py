"""Readers of a dataset: follow it, or scan it once."""
