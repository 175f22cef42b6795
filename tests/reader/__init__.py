"""Tests of ``streamer.reader``."""
