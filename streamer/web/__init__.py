"""The web UI of a running daemon. It needs the extra `web`, so import it only where the web UI is on."""
