"""Scope: parse, format, narrow (RFC 6749 §3.3, §6).

A scope is an ordered tuple of distinct tokens here and a space-separated text on the wire.
Nothing is repaired: what is not exactly `scope-token *( SP scope-token )` is refused.
"""

import re

from token_server.errors import InvalidScopeError

# %x21 / %x23-5B / %x5D-7E: printable ASCII without space, quote and backslash.
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+(?: [\x21\x23-\x5B\x5D-\x7E]+)*")
_MAX_LENGTH = 2048


def parse_scope(text: str) -> tuple[str, ...]:
    """The tokens of a `scope` parameter, repeated ones once, in their order.

    Raises InvalidScopeError for anything outside the grammar of RFC 6749 §3.3.
    """
    if len(text) > _MAX_LENGTH:
        raise InvalidScopeError("scope_too_long", "The scope is too long.")
    if _SCOPE.fullmatch(text) is None:
        raise InvalidScopeError("scope_malformed", "The scope is malformed.")
    return tuple(dict.fromkeys(text.split(" ")))


def format_scope(scope: tuple[str, ...]) -> str:
    return " ".join(scope)


def narrow_scope(asked: tuple[str, ...] | None, granted: tuple[str, ...]) -> tuple[str, ...]:
    """What is asked for if all of it was granted; all that was granted if nothing is asked for.

    Raises InvalidScopeError when one token of `asked` is outside `granted`: a scope is never
    silently cut, so that a client notices at once and not at some service (RFC 6749 §6).
    """
    if asked is None:
        return granted
    if not set(asked) <= set(granted):
        raise InvalidScopeError("scope_exceeds_grant")
    return asked
