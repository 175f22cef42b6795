"""Trace databases on a real server. `make test-remote` runs them."""
