"""Tests of ``streamer.store``."""
