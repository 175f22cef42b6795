"""Where lines and outcomes come from. Nothing here writes to what it reads."""
