"""Tests of ``streamer.base``."""
