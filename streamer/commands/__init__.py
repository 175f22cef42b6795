"""One module or folder for each sub-command, imported only when it is called. In a folder, ``cli.py`` is thin."""
