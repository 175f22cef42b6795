"""``python -m streamer`` is the ``streamer`` command."""

from streamer.commands.cli import main

if __name__ == "__main__":
    main()
