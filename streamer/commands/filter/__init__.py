"""One pass over a trace database: choose sessions, and write what they hold as one dataset."""
