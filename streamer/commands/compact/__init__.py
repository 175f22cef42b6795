"""Take records out of closed parts: withdrawn ones, and those that a stricter rule leaves out now."""
