"""The daemon: pipeline, supervisor, status, watchdog and observers."""
