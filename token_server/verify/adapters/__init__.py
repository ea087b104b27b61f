"""One module per framework, each with a `Protect` in that framework's idiom.

Import the one you need: `from token_server.verify.adapters.fastapi import Protect`. Nothing of
`token_server.verify` imports a framework, and no adapter imports another framework than its own.
"""
