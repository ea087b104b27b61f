"""Pure decisions: no await, clock, randomness, environment, logging, I/O; only the stdlib."""
