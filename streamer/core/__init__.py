"""Records and verdicts. Pure: no input or output, no clock."""
