"""Observers of events: one file for each backend."""
