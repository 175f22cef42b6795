"""What a person watches on a terminal while a dataset grows."""
