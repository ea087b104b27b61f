"""The verifier follows the real server's lists, over HTTP, with its real keys."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from token_server.verify import Reason, StatusChecking, TokenError, Verifier, decode_unverified
from token_server.verify.testing import RunningTokenServer, running_token_server

ORDERS = "https://orders.example"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningTokenServer]:
    with running_token_server(status_ttl="1s") as running:
        yield running


async def test_session_that_was_revoked_is_refused_within_seconds(
    server: RunningTokenServer,
) -> None:
    """A login, `session revoke`, and the very same verifier and token; the other one lives on."""
    ended, other = [
        (await asyncio.to_thread(server.log_in, resource=ORDERS))["access_token"] for _ in range(2)
    ]
    verifier = Verifier(
        issuer=server.issuer, audience=ORDERS, status=StatusChecking(require_status=True)
    )
    sid = str((await verifier.verify(ended)).session_id)
    assert await verifier.verify(other)
    assert "status" in decode_unverified(ended)[1]

    await asyncio.to_thread(server.run, "session", "revoke", sid)
    assert await reason_of_refusal(verifier, ended) == Reason.STATUS_REVOKED
    assert await verifier.verify(other)
    stats = verifier.stats().status[0]
    assert (stats.lists, stats.failures, stats.revoked_kids) == (1, 0, ())


async def reason_of_refusal(verifier: Verifier, token: str) -> Reason:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            await verifier.verify(token)
        except TokenError as error:
            return error.reason
        await asyncio.sleep(0.05)
    pytest.fail("the token is still accepted")
