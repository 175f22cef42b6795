"""Tests of streamer; a package, so that its helper modules are found before any other `tests`."""
