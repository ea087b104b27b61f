"""All HTTP: decode, one call, encode."""
