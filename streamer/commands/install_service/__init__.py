"""streamer as a service of systemd: the files that belong to it, where they go, and how they get there and away."""
