"""No more than so many records of one rollout, seed, prompt or achievement."""
