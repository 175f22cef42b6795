"""Removes records from closed parts: retracted ones, and those that stricter rules reject now."""
