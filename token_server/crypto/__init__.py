"""Slow or secret things: password hashing, signing keys, what is derived from the master key."""
