"""Tests of ``streamer.config``."""
