"""Reports on the contents and the history of a dataset, as text or as one HTML page."""
