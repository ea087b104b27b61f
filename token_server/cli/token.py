"""`token-server token`: get one from a server, look into one, verify one; and what becomes of it.

Tokens and secrets come from a prompt or stdin, never argv. `verify` uses the verification library
that resource services use, with the keys that the server publishes.
"""

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from token_server.cli.context import CliContext, ask_secret, emit, json_option
from token_server.cli.http_client import HttpAnswer, basic_authorization, request
from token_server.cli.token_state import explain_command, introspect_command, revoke_command
from token_server.config import Settings
from token_server.errors import OperatorError
from token_server.services.metadata import JWKS_PATH, TOKEN_PATH
from token_server.verify import (
    Claims,
    KeySetError,
    Policy,
    StaticKeySet,
    TokenError,
    Verifier,
    decode_unverified,
)

GRANTS = ("client_credentials", "password", "refresh_token")


@click.group()
def token() -> None:
    """Get, decode, verify, introspect, revoke and explain tokens.

    Tokens and secrets are asked for on the terminal; without one they are read from standard
    input, one per line. They are never arguments, which other users of the machine can read.
    """


@token.command()
@click.option("--client-id", required=True, help="The client that asks.")
@click.option("--public", is_flag=True, help="The client has no secret.")
@click.option("--grant", "grant_type", type=click.Choice(GRANTS), default=GRANTS[0])
@click.option("--username", help="E-mail of the user, for the password grant.")
@click.option("--scope", "scopes", multiple=True, help="Ask for this scope only; repeatable.")
@click.option("--resource", metavar="URI", help="Ask for this audience (RFC 8707).")
@click.option("--url", help="Base URL of the server; by default the issuer.")
@json_option
@click.pass_obj
def get(  # noqa: PLR0913 - one parameter per option
    cli: CliContext,
    *,
    client_id: str,
    public: bool,
    grant_type: str,
    username: str | None,
    scopes: tuple[str, ...],
    resource: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Get a token from a running server; prints the access token, or with --json everything.

    Asks for the client's secret (unless --public), then for the password or the refresh token;
    without a terminal they are lines of standard input, in this order.

    \b
    Examples:
      token-server token get --client-id demo-service
      TOKEN=$(token-server token get --client-id billing < secret.txt)
    """
    form = {"grant_type": grant_type, "scope": " ".join(scopes), "resource": resource or ""}
    headers = {}
    if public:
        form["client_id"] = client_id
    else:
        secret = ask_secret("Client secret")
        headers["Authorization"] = basic_authorization(client_id, secret.reveal())
    if grant_type == "password":
        if username is None:
            raise OperatorError("The password grant needs --username.", exit_code=2)
        form["username"] = username
        form["password"] = ask_secret("Password").reveal()
    elif grant_type == "refresh_token":
        form["refresh_token"] = ask_secret("Refresh token").reveal()
    base = (url or cli.settings().issuer).rstrip("/")
    filled = {name: value for name, value in form.items() if value}
    body = _token_response(request(base + TOKEN_PATH, form=filled, headers=headers))
    emit(body, str(body["access_token"]), as_json=as_json)


@token.command()
@json_option
def decode(*, as_json: bool) -> None:
    """Show header and claims of an access token WITHOUT verifying it: to look at, not to trust."""
    text = ask_secret("Access token").reveal()
    try:
        header, claims = decode_unverified(text)
    except TokenError as error:
        raise OperatorError(f"This is not a readable access token: {error.reason}.") from None
    click.echo("Not verified: anybody could have written this.", err=True)
    shown = {"header": header, "claims": claims}
    emit(shown, lambda: _indented(shown) + _instants(claims), as_json=as_json)


@token.command()
@click.option("--audience", help="Whom the token must be for; by default DEFAULT_AUDIENCE.")
@click.option("--jwks", metavar="URL|FILE", help="The keys; by default the issuer's JWKS.")
@json_option
@click.pass_obj
def verify(cli: CliContext, *, audience: str | None, jwks: str | None, as_json: bool) -> None:
    """Verify an access token as a service would, and say which check fails (exit code 1).

    \b
    Example:
      token-server token verify --audience https://orders.example < token.txt
    """
    settings = cli.settings()
    text = ask_secret("Access token").reveal()
    verifier = Verifier(
        issuer=settings.issuer,
        audience=audience or settings.default_audience,
        keys=_key_set(jwks or settings.issuer.rstrip("/") + JWKS_PATH),
        policy=_policy(settings),
    )
    try:
        claims = verifier.verify_sync(text)
    except TokenError as error:
        raise OperatorError(f"The token is refused: {error.reason}.") from None
    emit(_claims_json(claims), lambda: f"The token is good.\n{_indented(_claims_json(claims))}",
         as_json=as_json)  # fmt: skip


for _command in (introspect_command, revoke_command, explain_command):
    token.add_command(_command)


def _token_response(answer: HttpAnswer) -> dict[str, object]:
    try:
        body = msgspec.json.decode(answer.body, type=dict[str, object])
    except msgspec.DecodeError:
        raise OperatorError(
            f"The server answered {answer.status} with something that is no token response."
        ) from None
    if answer.status == 200 and isinstance(body.get("access_token"), str):
        return body
    code, description = body.get("error", "unknown error"), body.get("error_description", "")
    raise OperatorError(
        f"The server refused ({answer.status} {code}): {description}",
        exit_code=5 if answer.status in (429, 503) else 1,
    )


def _key_set(source: str) -> StaticKeySet:
    if "://" in source:
        answer = request(source)
        if answer.status != 200:
            raise OperatorError(f"{source} answered {answer.status}.", exit_code=5)
        content = answer.body
    else:
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise OperatorError(f"{source} cannot be read: {error.strerror}.") from None
    try:
        return StaticKeySet.from_jwks(content)
    except KeySetError as error:
        raise OperatorError(f"{source} is no usable key set: {error}.") from None


def _policy(settings: Settings) -> Policy:
    # `typ` may be set per client: which one this client has is not for this command to judge.
    return Policy(accept_typ=("at+jwt", "JWT"), iat_skew_s=min(settings.clock_skew_s, 60))


def _claims_json(claims: Claims) -> dict[str, object]:
    return {
        "subject": claims.subject,
        "client_id": claims.client_id,
        "scopes": sorted(claims.scopes),
        "audience": claims.audience,
        "issued_at": claims.issued_at,
        "expires_at": claims.expires_at,
        "token_id": claims.token_id,
        "session_id": claims.session_id,
        "roles": claims.roles,
        "auth_time": claims.auth_time,
        "extra": dict(claims.extra),
    }


def _indented(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _instants(claims: dict[str, object]) -> str:
    """The instants once more, for people."""
    lines = [
        f"\n{name}: {datetime.fromtimestamp(value, UTC).isoformat()}"
        for name in ("auth_time", "iat", "nbf", "exp")
        if isinstance(value := claims.get(name), int) and 0 <= value <= 253402300799
    ]
    return "".join(lines)
