"""Many evaluation hosts, one dataset: records on their way from collectors to writers, through NATS JetStream."""
