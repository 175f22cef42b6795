"""Tests of ``streamer.daemon``."""
