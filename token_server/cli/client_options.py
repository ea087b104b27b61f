"""The options that say what a client may do: the same for `client add` and `client change`."""

from collections.abc import Callable
from typing import Any

import click

from token_server.core.client_policy import SHORT_GRANT_TYPES, TYPED_GRANT_TYPES


def _registered_names(
    _context: click.Context, _option: click.Parameter, typed: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(SHORT_GRANT_TYPES.get(name, name) for name in typed)


_POLICY_OPTIONS = (
    click.option(
        "--grant",
        "grant_types",
        multiple=True,
        metavar="|".join(TYPED_GRANT_TYPES),
        callback=_registered_names,
        help="A grant that the client may use; repeat for more. None only with --serves.",
    ),
    click.option(
        "--scope", "scopes", multiple=True, help="A scope it may be given; repeat for more."
    ),
    click.option(
        "--audience",
        "audiences",
        multiple=True,
        metavar="URI",
        help="A service it may ask tokens for (RFC 8707 resource), an absolute URI; repeat for"
        " more.",
    ),
    click.option(
        "--default-audience",
        multiple=True,
        metavar="URI",
        help="`aud` when the client asks for none; the server's DEFAULT_AUDIENCE if not given.",
    ),
    click.option(
        "--serves",
        "serves_audiences",
        multiple=True,
        metavar="URI",
        help="An audience that this client is, as a resource server: it may introspect its"
        " tokens, and exchange them.",
    ),
    click.option(
        "--exchange-audience",
        "exchange_audiences",
        multiple=True,
        metavar="URI",
        help="A service for which it may exchange its callers' tokens (RFC 8693), with the grant"
        " token-exchange; repeat for more.",
    ),
    click.option("--name", default="", help="Display name; the ID if not given."),
)


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `add` states and `change` replaces."""
    for option in reversed(_POLICY_OPTIONS):
        command = option(command)
    return command
