"""Records that nearly equal another one: MinHash signatures of what was said, and hashes of how images look."""
