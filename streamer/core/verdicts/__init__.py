"""Verdicts on records: join, qualify, turns, near-duplicates, caps."""
