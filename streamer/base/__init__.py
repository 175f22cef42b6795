"""Tools that know no rollout: errors, text, files, locks, the append-only file, events."""
