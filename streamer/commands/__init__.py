"""One module for each sub-command; each is thin, and imported only when it is called."""
