"""Sources of lines and outcomes. No source is ever written."""
