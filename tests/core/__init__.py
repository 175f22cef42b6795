"""Tests of ``streamer.core``."""
