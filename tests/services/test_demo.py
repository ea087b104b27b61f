"""The demo accounts of `dev`: made once, kept, and repaired where half is missing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.server import ManualClock, make_settings
from token_server.records import Secret
from token_server.runtime import Runtime, open_runtime
from token_server.services.clients import delete_client, show_client
from token_server.services.demo import Demo, ensure_demo
from token_server.services.guessing import Door, Guess
from token_server.services.request_context import RequestContext
from token_server.services.users import authenticate_user


@pytest.fixture
async def runtime(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Runtime]:
    settings = make_settings(sqlite_url, tmp_path)
    async with open_runtime(settings, clock=ManualClock(), with_keys=False) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "demo.json"


async def can_log_in(runtime: Runtime, demo: Demo) -> bool:
    context = RequestContext(
        now=runtime.clock.now(), request_id="test", ip_address=None, user_agent=None
    )
    password = Secret(demo.user_password)
    return (
        await authenticate_user(runtime, Guess(Door.LOGIN, demo.user_email), password, context)
        is not None
    )


async def test_the_first_start_makes_working_accounts(runtime: Runtime, file: Path) -> None:
    """A user who can log in, a public client, and a service with a secret."""
    demo = await ensure_demo(runtime, file)

    public = await show_client(runtime, demo.public_client_id)
    service = await show_client(runtime, demo.service_client_id)
    assert await can_log_in(runtime, demo)
    assert public.is_public
    assert public.grant_types == {"password", "refresh_token"}
    assert service.grant_types == {"client_credentials"}
    assert len(service.secrets) == 1


async def test_the_file_is_for_its_owner_alone(runtime: Runtime, file: Path) -> None:
    """It holds secrets: 0600, in a directory of 0700 where we make it."""
    await ensure_demo(runtime, file)

    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


async def test_a_later_start_keeps_the_accounts(runtime: Runtime, file: Path) -> None:
    """What was printed yesterday works today."""
    first = await ensure_demo(runtime, file)

    assert await ensure_demo(runtime, file) == first


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
async def test_a_lost_or_damaged_file_gives_new_secrets(
    runtime: Runtime, file: Path, content: bytes | None
) -> None:
    """Only the secrets change: the old ones are worthless, the accounts stay."""
    first = await ensure_demo(runtime, file)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)

    second = await ensure_demo(runtime, file)

    assert second.service_client_secret != first.service_client_secret
    assert await can_log_in(runtime, second)
    assert not await can_log_in(runtime, first)
    service = await show_client(runtime, second.service_client_id)
    live = [s for s in service.secrets if s.expires_at is None]
    assert len(live) == 1


async def test_a_missing_client_is_made_again(runtime: Runtime, file: Path) -> None:
    """Whoever deleted it while playing gets it back with the next start."""
    first = await ensure_demo(runtime, file)
    await delete_client(runtime, first.service_client_id)

    second = await ensure_demo(runtime, file)

    assert second.service_client_secret != first.service_client_secret
    assert (await show_client(runtime, second.service_client_id)).is_enabled


def test_demo_secrets_are_not_in_its_repr() -> None:
    """A log line with the struct in it shows nothing."""
    assert "hunter2" not in repr(Demo("a", "hunter2", "b", "c", "hunter2"))
