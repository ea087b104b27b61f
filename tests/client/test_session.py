"""A user's session: each refresh token is spent by its use, and its successor is stored first."""

import os
from collections.abc import Callable

import pytest

from tests.client.conftest import StoppedClock
from tests.support.token_endpoint import ScriptedEndpoint, granted, refused
from token_server.client import (
    RefreshTokenNotStoredError,
    SessionEndedError,
    TokenRefusedError,
    TokenSource,
)

MakeSource = Callable[..., TokenSource]


def rotating(endpoint: ScriptedEndpoint) -> None:
    """Each answer has the next refresh token, as our server's."""
    endpoint.answer = lambda _: granted(
        f"token-{len(endpoint.asked)}", refresh_token=f"rt_{len(endpoint.asked)}"
    )


def test_each_refresh_uses_the_newest_token_and_stores_its_successor(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """RFC 6749 6 for a public client: it names itself in the body."""
    rotating(endpoint)
    stored: list[str] = []
    source = make_source(client_secret=None, refresh_token="rt_0", on_refresh_token=stored.append)
    assert source.get_token() == "token-1"
    clock.now += 900
    assert source.get_token() == "token-2"
    assert stored == ["rt_1", "rt_2"]
    assert [asked.form for asked in endpoint.asked] == [
        {"grant_type": "refresh_token", "refresh_token": "rt_0", "client_id": "billing"},
        {"grant_type": "refresh_token", "refresh_token": "rt_1", "client_id": "billing"},
    ]
    assert endpoint.asked[0].authorization is None


def test_confidential_client_authenticates_its_refresh(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """RFC 6749 6: client authentication as anywhere."""
    rotating(endpoint)
    make_source(refresh_token="rt_0", on_refresh_token=lambda _: None).get_token()
    assert str(endpoint.asked[0].authorization).startswith("Basic ")
    assert "client_id" not in endpoint.asked[0].form


def test_refresh_token_that_stays_is_not_stored_again(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """A server may leave it as it is (RFC 6749 6)."""
    stored: list[str] = []
    source = make_source(refresh_token="rt_0", on_refresh_token=stored.append)
    source.get_token()
    clock.now += 900
    source.get_token()
    assert stored == []
    assert [asked.form["refresh_token"] for asked in endpoint.asked] == ["rt_0", "rt_0"]


def test_access_token_is_not_used_before_the_refresh_token_is_stored(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """A process that dies in between would come back with a spent token. The new one is kept in
    memory and stored before anything else is done."""
    rotating(endpoint)
    stored: list[str] = []
    is_full = True

    def store(refresh_token: str) -> None:
        if is_full:
            raise OSError("disk full")
        stored.append(refresh_token)

    source = make_source(refresh_token="rt_0", on_refresh_token=store)
    for _ in range(2):
        with pytest.raises(RefreshTokenNotStoredError) as caught:
            source.get_token()
        assert isinstance(caught.value.__cause__, OSError)
    clock.now += 2
    with pytest.raises(RefreshTokenNotStoredError):
        source.get_token()
    assert len(endpoint.asked) == 1  # nothing more is spent meanwhile
    is_full = False
    clock.now += 60
    assert source.get_token() == "token-2"
    assert stored == ["rt_1", "rt_2"]
    assert endpoint.asked[1].form["refresh_token"] == "rt_1"


def test_lost_answer_is_asked_for_with_the_same_refresh_token(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """The server answers it again for some seconds: it heals only if asked at once."""
    endpoint.will_say(refused(502, "server_error"), granted("token-2", refresh_token="rt_1"))
    stored: list[str] = []
    source = make_source(refresh_token="rt_0", on_refresh_token=stored.append)
    assert source.get_token() == "token-2"
    assert [asked.form["refresh_token"] for asked in endpoint.asked] == ["rt_0", "rt_0"]
    assert stored == ["rt_1"]


def test_session_that_is_over_is_over(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """`invalid_grant`: one request, and then the same error for ever, whatever is held."""
    rotating(endpoint)
    source = make_source(refresh_token="rt_0", on_refresh_token=lambda _: None)
    source.get_token()
    endpoint.will_say(refused(400, "invalid_grant"))
    clock.now += 896
    for _ in range(3):
        with pytest.raises(SessionEndedError) as caught:
            source.get_token()
        assert (caught.value.error, caught.value.status) == ("invalid_grant", 400)
        clock.now += 1000
    assert len(endpoint.asked) == 2


def test_refused_client_is_no_ended_session(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """The client is disabled for a while: its sessions may still be there."""
    endpoint.will_say(refused(401, "invalid_client"), granted(refresh_token="rt_1"))
    source = make_source(refresh_token="rt_0", on_refresh_token=lambda _: None)
    with pytest.raises(TokenRefusedError) as caught:
        source.get_token()
    assert not isinstance(caught.value, SessionEndedError)
    clock.now += 11
    assert source.get_token() == "token-1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_does_not_use_its_parents_session(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """Two holders of one refresh token look like a theft, which ends the session."""
    rotating(endpoint)
    source = make_source(refresh_token="rt_0", on_refresh_token=lambda _: None)
    source.get_token()
    child = os.fork()
    if child == 0:
        try:
            source.get_token()
        except SessionEndedError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert source.get_token() == "token-1"
