"""For tests of services that take access tokens: tokens of every kind, without a server or with.

    from token_server.verify.testing import TestIssuer
    issuer = TestIssuer()                                  # in memory, no network
    verifier = issuer.verifier(audience="https://orders.example")
    token = issuer.token(sub="usr_ada", scope="orders:read", audience="https://orders.example")

`running_token_server()` starts the real server in a process of its own. Never for production:
whoever can call an issuer is whoever they like.
"""

from token_server.verify.testing.issuer import TestIssuer
from token_server.verify.testing.running import (
    RegisteredClient,
    RunningTokenServer,
    ServerNotStartedError,
    running_token_server,
)

__all__ = [
    "RegisteredClient",
    "RunningTokenServer",
    "ServerNotStartedError",
    "TestIssuer",
    "running_token_server",
]
