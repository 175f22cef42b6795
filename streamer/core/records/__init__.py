"""What a record is: its layouts, its messages, its key, its line in the dataset."""
