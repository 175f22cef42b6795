"""The dataset and its dead letters: append, sync, rotate, recover."""
