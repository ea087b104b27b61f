"""Millions of sessions: loading them, and what they cost."""
