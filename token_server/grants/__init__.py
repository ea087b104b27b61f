"""The token endpoint: phases in `endpoint`, one file per grant, one line each in `registry`."""
