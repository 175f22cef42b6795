"""A dataset on disk: parts, ledger, dataset, curation, and read-only views of them."""
