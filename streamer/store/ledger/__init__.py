"""The ledger: cursors, spans, verdicts and keys in one SQLite file, the one commit point."""
