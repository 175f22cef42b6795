"""Who is told of events: one file for each backend."""
