"""Tests of ``streamer.sources``."""
