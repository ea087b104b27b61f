"""Audience: which resource an access token is for (RFC 8707)."""

from token_server.core.identifiers import audience_problem
from token_server.errors import InvalidTargetError
from token_server.records import Client


def parse_resource(text: str) -> str:
    """A `resource` parameter: an absolute URI without fragment, taken as it is (RFC 8707 §2).

    Raises InvalidTargetError for anything else, by the same rule that registration has.
    """
    if audience_problem(text) is not None:
        raise InvalidTargetError("resource_malformed")
    return text


def default_audience(client: Client, fallback: str) -> tuple[str, ...]:
    """What a token of this client is for when it does not say: its own default, else the first
    of its audiences, else the server's. Never all of them: a token that is good everywhere can be
    replayed by one service against another (RFC 9700 §2.3)."""
    return client.default_audience or client.audiences[:1] or (fallback,)


def choose_audience(
    resource: str | None, allowed: tuple[str, ...], default: tuple[str, ...]
) -> tuple[str, ...]:
    """The one resource that was asked for if the client may have it, else the default.

    Compared as text: two spellings of one URI are two audiences, as they are for verifiers.
    """
    if resource is None:
        return default
    if resource not in allowed and resource not in default:
        raise InvalidTargetError("resource_not_registered")
    return (resource,)
