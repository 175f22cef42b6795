"""Many hosts, one dataset: with real nats-servers. `make test-fleet` runs them."""
