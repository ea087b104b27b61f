"""Readers of strangers' bytes as functions of bytes, for atheris (scripts/fuzz) and hypothesis."""
