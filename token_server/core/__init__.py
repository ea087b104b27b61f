"""Pure decisions: no await, clock, randomness, environment, logging or I/O; standard library only."""
