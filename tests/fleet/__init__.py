"""Tests of ``streamer.fleet`` that need no server; those that do: ``tests/suites/fleet``."""
