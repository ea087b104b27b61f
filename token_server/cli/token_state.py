"""`token-server token introspect | revoke | explain`: what a token is worth, and the end of it.

`introspect` asks a running server as a resource service would. `revoke` gives a token back as its
client, or, on the installation itself, ends any. `explain` needs no server: it says which check
fails and why. Tokens come from a prompt or stdin, never argv, and are never printed.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import click
import msgspec

from token_server.cli.context import CliContext, ask_secret, emit, json_option, run
from token_server.cli.http_client import HttpAnswer, basic_authorization, request
from token_server.errors import OperatorError
from token_server.services.metadata import INTROSPECTION_PATH, JWKS_PATH, REVOCATION_PATH

_URL = click.option("--url", help="Base URL of the server; by default the issuer.")


@click.command("introspect")
@click.option("--client-id", required=True, help="The confidential client that asks.")
@_URL
@json_option
@click.pass_obj
def introspect_command(cli: CliContext, *, client_id: str, url: str | None, as_json: bool) -> None:
    """Ask a running server what a token is worth now; exit code 1 when it is not active.

    Asks for the client's secret, then for the token. The client is told about access tokens for an
    audience that it serves (`client add --serves`), and about tokens of its own.

    \b
    Example:
      printf '%s\\n' "$SECRET" "$TOKEN" | token-server token introspect --client-id orders
    """
    secret = ask_secret("Client secret").reveal()
    form = {"token": ask_secret("Token").reveal()}
    headers = {"Authorization": basic_authorization(client_id, secret)}
    answer = request(_base(cli, url) + INTROSPECTION_PATH, form=form, headers=headers)
    members = _body(answer)
    if answer.status != 200 or not isinstance(members.get("active"), bool):
        raise _refused(answer, members)
    emit(members, lambda: _indented(members), as_json=as_json)
    if not members["active"]:
        raise SystemExit(1)


@click.command("revoke")
@click.option("--client-id", help="Give the token back as this client, at a running server.")
@click.option("--public", is_flag=True, help="The client has no secret.")
@_URL
@json_option
@click.pass_obj
def revoke_command(
    cli: CliContext, *, client_id: str | None, public: bool, url: str | None, as_json: bool
) -> None:
    """End a token: a refresh token, or an access token of a login, ends the whole session.

    Without --client-id directly on this installation, whoever's token it is; exit code 3 when it
    is no token of this installation. With it at a running server, which does not tell whether
    there was something to end (RFC 7009); asks for the client's secret first (unless --public).

    \b
    Examples:
      token-server token revoke < token.txt
      token-server token revoke --client-id demo-cli --public
    """
    if client_id is not None:
        _give_back(_base(cli, url), client_id, is_public=public)
        emit({"revoked": None}, "The server took the token back.", as_json=as_json)
        return
    if public or url is not None:
        raise OperatorError("--public and --url go with --client-id.", exit_code=2)
    # Here, not at the top: what opens databases would slow down `token get` and `token verify`.
    from token_server.services.revocation import Outcome, revoke_as_operator

    text = ask_secret("Token").reveal()
    outcome = run(cli, lambda runtime: revoke_as_operator(runtime, text), with_keys=True)
    if outcome is Outcome.UNKNOWN:
        raise OperatorError(
            "This is no live token of this installation: `token explain` says why.", exit_code=3
        )
    is_revoked = outcome is Outcome.REVOKED
    told = "The token is revoked." if is_revoked else "The token was worth nothing already."
    emit({"revoked": is_revoked}, told, as_json=as_json)


@click.command("explain")
@click.option("--live", is_flag=True, help="Also ask the running server for its time.")
@_URL
@json_option
@click.pass_obj
def explain_command(cli: CliContext, *, live: bool, url: str | None, as_json: bool) -> None:
    """Say what a token is, which check fails and why; exit code 1 when it is worth nothing.

    Looks at this installation's keys and database, and needs no running server. Shows which key
    signed and what state it is in, whether client, user and session are good, and how the instants
    in the token stand to this clock; with --live also how the server's clock does.

    \b
    Example:
      token-server token explain < token.txt
    """
    from token_server.cli.explanation_text import explanation_json, explanation_text
    from token_server.services.token_explanation import LIVE, explain_token

    if url is not None and not live:
        raise OperatorError("--url goes with --live.", exit_code=2)
    text = ask_secret("Token").reveal()
    found = run(cli, lambda runtime: explain_token(runtime, text), with_keys=True)
    difference_s = _clock_difference_s(_base(cli, url)) if live else None
    emit(
        explanation_json(found, difference_s),
        lambda: explanation_text(found, difference_s),
        as_json=as_json,
    )
    if found.verdict != LIVE:
        raise SystemExit(1)


def _give_back(base: str, client_id: str, *, is_public: bool) -> None:
    form, headers = {"client_id": client_id}, {}
    if not is_public:
        headers["Authorization"] = basic_authorization(
            client_id, ask_secret("Client secret").reveal()
        )
    form["token"] = ask_secret("Token").reveal()
    answer = request(base + REVOCATION_PATH, form=form, headers=headers)
    if answer.status != 200:
        raise _refused(answer, _body(answer))


def _clock_difference_s(base: str) -> int:
    """The server's clock minus this one, to the second that HTTP tells (RFC 9110 §6.6.1)."""
    from token_server.runtime import SystemClock

    answer = request(base + JWKS_PATH)
    try:
        told = parsedate_to_datetime(answer.headers.get("date", ""))
    except ValueError:
        raise OperatorError("The server's answer has no usable Date header.") from None
    return int(told.timestamp()) - SystemClock().now()


def _base(cli: CliContext, url: str | None) -> str:
    return (url or cli.settings().issuer).rstrip("/")


def _body(answer: HttpAnswer) -> dict[str, object]:
    try:
        return msgspec.json.decode(answer.body, type=dict[str, object])
    except msgspec.DecodeError:
        raise OperatorError(
            f"The server answered {answer.status} with something that is no JSON object."
        ) from None


def _refused(answer: HttpAnswer, body: Mapping[str, object]) -> OperatorError:
    code, description = body.get("error", "unknown error"), body.get("error_description", "")
    return OperatorError(
        f"The server refused ({answer.status} {code}): {description}",
        exit_code=5 if answer.status in (429, 503) else 1,
    )


def _indented(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
