"""Tests of ``streamer.web``."""
