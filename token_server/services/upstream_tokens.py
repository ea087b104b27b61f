"""A fresh access token for the service behind a proxy, out of what the request came with.

Only for a proxy that proves which client it is: otherwise whoever holds a token for one service
could have one made for another. What that client may do is the policy of token exchange (RFC 8693,
services/exchanging.py), and the proxy has to be one that serves the audience it guards. A token is
used again for a minute at most, since a signature for each request is most of what one costs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from token_server.core.client_auth import read_client
from token_server.core.recently_used import RecentlyUsed
from token_server.errors import OAuthError, ProxyConfigurationError
from token_server.records import Client, Secret
from token_server.runtime import Runtime
from token_server.services.api_keys import ApiKeyPrincipal
from token_server.services.client_authentication import authenticate_client
from token_server.services.exchanging import (
    Asked,
    authorize_exchange,
    subject_of_api_key,
    subject_of_token,
)
from token_server.services.issuing import issue
from token_server.services.request_context import RequestContext
from token_server.services.token_state import LiveToken

# A minute: what the tokens are made from is looked at for each request all the same.
REUSED_FOR_S = 60
MAX_REMEMBERED = 4096

_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The credential of the request, good now, and what it is worth: `scope` and `roles`."""

    text: str = field(repr=False)
    credential: LiveToken | ApiKeyPrincipal = field(repr=False)
    scope: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Minted:
    token: Secret[str]
    kid: str
    made_at: int
    reused_until: int


class UpstreamTokens:
    """One per application. Remembered by the whole credential (case H155), in this process only."""

    def __init__(self) -> None:
        self._minted = RecentlyUsed[_Key, _Minted](MAX_REMEMBERED)

    async def fresh_token(
        self,
        runtime: Runtime,
        client: Client,
        source: Source,
        audience: str,
        context: RequestContext,
    ) -> Secret[str]:
        """A token for `audience` in the name of whoever sent the request, `client` acting.

        Raises what `authorize_exchange` refuses, and UnavailableError.
        """
        key: _Key = (
            hashlib.sha256(source.text.encode("latin-1")).digest(),
            (client.client_id, client.updated_at),  # another policy: another token
            audience,
            (source.scope, source.roles),
        )
        minted = self._minted.find(key)
        if minted is None or not _is_usable(runtime, minted, context.now):
            minted = await _mint(runtime, client, source, audience, context)
            self._minted.remember(key, minted)
        return minted.token


async def authenticate_proxy(
    runtime: Runtime, authorization: Sequence[str], guarded: str, context: RequestContext
) -> Client:
    """The client that the proxy is; `authorization` are the values of its own header, `guarded`
    is the audience that it demands of the requests.

    Raises ProxyConfigurationError for every cause, and UnavailableError when too much was guessed:
    whoever sent the request has done nothing wrong.
    """
    try:
        client = await authenticate_client(runtime, read_client(authorization, {}), context)
    except OAuthError as error:
        raise ProxyConfigurationError(error.reason) from None
    if guarded not in client.serves_audiences:
        raise ProxyConfigurationError("proxy_does_not_serve_audience")
    return client


def _is_usable(runtime: Runtime, minted: _Minted, now: int) -> bool:
    if not minted.made_at <= now < minted.reused_until:
        return False
    # After a switch of keys: the one before may be the compromised one.
    return minted.kid == runtime.keyring.signer(now).kid


async def _mint(
    runtime: Runtime, client: Client, source: Source, audience: str, context: RequestContext
) -> _Minted:
    if isinstance(source.credential, LiveToken):
        subject = subject_of_token(runtime, source.credential)
    else:
        subject = await subject_of_api_key(runtime, source.credential, context.now)
    authorization = authorize_exchange(runtime, client, subject, Asked(audience), context)
    response = await issue(runtime, authorization, context)
    # Whoever gets it has half of its life at least.
    reused_for_s = min(REUSED_FOR_S, response.expires_in_s // 2)
    return _Minted(response.access_token, response.kid, context.now, context.now + reused_for_s)
