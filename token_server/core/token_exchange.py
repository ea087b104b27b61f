"""Token exchange: which kinds of tokens, which target, which scope (RFC 8693).

Every answer is narrower than what came in, and within what the operator registered for the acting
client. Whether the subject token is good is services/token_state.py's, whether it may be
exchanged by this client services/exchanging.py's.
"""

from token_server.core.scope import narrow_scope
from token_server.errors import InvalidRequestError, InvalidScopeError, InvalidTargetError

ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # RFC 8693 §3
API_KEY_TYPE = "urn:token-server:token-type:api-key"  # our own: §3 leaves it to us
SUBJECT_TOKEN_TYPES = (ACCESS_TOKEN_TYPE, API_KEY_TYPE)


def one_target(audience: str | None, resource: str | None) -> str | None:
    """The one service that `audience` and `resource` name, None when nothing does (RFC 8693 §2.1).

    Raises InvalidRequestError when they name two: a token for both could be replayed by one of
    them against the other (RFC 9700 §2.3).
    """
    if audience is not None and resource is not None and audience != resource:
        raise InvalidRequestError(
            "audience_and_resource_differ", "The audience and the resource name two services."
        )
    return resource if audience is None else audience


def choose_target(asked: str | None, allowed: tuple[str, ...]) -> str:
    """The audience of the new token: what is asked for, out of `Client.exchange_audiences`; not
    asked, the only one that there is. Raises InvalidTargetError (RFC 8693 §2.2.2)."""
    if asked is None:
        if len(allowed) != 1:
            raise InvalidTargetError("target_missing")
        return allowed[0]
    if asked not in allowed:
        raise InvalidTargetError("target_not_registered")
    return asked


def choose_scope(
    asked: tuple[str, ...] | None, of_subject: tuple[str, ...], of_client: tuple[str, ...]
) -> tuple[str, ...]:
    """What is asked for, out of what both subject and client have; not asked, all of that.

    Raises InvalidScopeError when something else is asked for, or when nothing would be left of a
    subject's scope: services that look at scope no further than "is there any refused one" would
    take such a token for a powerful one. A subject without scope gives a token without.
    """
    common = tuple(scope for scope in of_subject if scope in of_client)
    if of_subject and not common:
        raise InvalidScopeError("scope_nothing_in_common")
    return narrow_scope(asked, common)
