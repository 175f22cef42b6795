"""Near-duplicates: MinHash signatures of text, and perceptual hashes of images."""
