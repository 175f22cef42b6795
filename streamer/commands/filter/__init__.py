"""Filters a trace database: chooses sessions, and writes their examples as one dataset."""
