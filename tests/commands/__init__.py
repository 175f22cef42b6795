"""Tests of ``streamer.commands``."""
