"""What becomes of a record: join, qualify, turns, near-duplicates, caps."""
