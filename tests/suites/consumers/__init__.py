"""Exports and adapters, read by those that they are made for: `make test-export`."""
