"""What is in a dataset and how it came about, as text or as one page to keep."""
