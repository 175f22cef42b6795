"""Suites that need more than Python, or more time; each has a target in the Makefile."""
