"""Near-duplicates and caps across batches, crashes and restarts."""
