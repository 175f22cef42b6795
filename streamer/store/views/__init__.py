"""Read-only views of a ledger and its dataset: snapshot, explain, compare."""
