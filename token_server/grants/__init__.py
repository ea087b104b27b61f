"""The token endpoint: shared phases in `endpoint`, one file per grant, one line per grant in `registry`."""
