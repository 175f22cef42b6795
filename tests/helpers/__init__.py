"""What the tests share: producers, trace databases, terminals, child processes."""
