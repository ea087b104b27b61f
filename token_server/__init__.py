"""Token server: RS256 access tokens that every service verifies with the public key alone.

Importing this package loads nothing. The server is `token_server.cli`, the verification
library for resource services is `token_server.verify`.
"""
