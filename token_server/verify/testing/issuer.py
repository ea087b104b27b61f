"""TestIssuer: signs access tokens as the real server does (RFC 9068 2), and flawed ones.

Each flawed token has one flaw and is otherwise as good as any, signature included, so that a
refusal shows that this one thing is checked. Tests compare the shape with a real server's tokens.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from token_server.verify.policy import DEFAULT_POLICY, Policy
from token_server.verify.testing.published import AsgiApp, Documents, asgi_app, serving
from token_server.verify.testing.signing import (
    LiveKeySet,
    SigningKeys,
    encode_json,
    random_text,
    sign,
    sign_by_public_key,
    signing_key,
)
from token_server.verify.testing.status import LISTS_PATH, LiveStatus, Revocations, list_uri
from token_server.verify.urls import metadata_url
from token_server.verify.verifier import Verifier, decode_unverified

_LIFETIME_S = 900
_HOUR_S = 3600
_JWKS_PATH = "/.well-known/jwks.json"


class TestIssuer:
    """An issuer in memory: no network, no server, no waiting."""

    __test__ = False  # for pytest, which takes whatever is called Test for a test

    FLAWS: ClassVar[tuple[str, ...]] = (
        "expired",
        "not_yet_valid",
        "wrong_audience",
        "wrong_issuer",
        "wrong_type",
        "wrong_key",
        "unknown_key",
        "tampered",
        "unsigned",
        "confused_algorithm",
        "bound_to_a_key",
    )

    def __init__(
        self,
        issuer: str = "https://issuer.test",
        *,
        audience: str = "https://service.test",
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`audience` is what tokens and verifiers have when nothing else is asked for; `clock`
        gives epoch seconds."""
        self.issuer = issuer
        self.audience = audience
        self._clock = time.time if clock is None else clock  # noqa: TID251 - no Runtime here
        self._keys = SigningKeys(issuer)
        self._revocations = Revocations()

    def __repr__(self) -> str:
        return f"TestIssuer({self.issuer!r}, audience={self.audience!r})"

    # --- what a service knows of its issuer -------------------------------------------------------

    @property
    def jwks_uri(self) -> str:
        return self.issuer.rstrip("/") + _JWKS_PATH

    def jwks(self) -> dict[str, Any]:
        """The published keys as a JWK Set (RFC 7517 5)."""
        return {"keys": [key.jwk for key in self._keys.published()]}

    def metadata(self) -> dict[str, Any]:
        """RFC 8414 2. It names no token endpoint, since there is none: tokens come from `token`."""
        return {
            "issuer": self.issuer,
            "jwks_uri": self.jwks_uri,
            "status_list_aggregation_endpoint": self.issuer.rstrip("/") + LISTS_PATH,
            "response_types_supported": [],
            "grant_types_supported": [],
        }

    def verifier(self, audience: str | None = None, *, policy: Policy = DEFAULT_POLICY) -> Verifier:
        """A verifier that knows this issuer's keys, those of later rotations too, and what was
        revoked, at once."""
        return Verifier(
            issuer=self.issuer,
            audience=self.audience if audience is None else audience,
            keys=LiveKeySet(self._keys),
            policy=policy,
            status=LiveStatus(self.issuer, self._revocations),
            clock=self._clock,
        )

    def asgi_app(self) -> AsgiApp:
        """Metadata, JWKS and status list as an ASGI application, to be mounted or called."""
        return asgi_app(self._documents())

    @contextlib.contextmanager
    def serve(self) -> Iterator["TestIssuer"]:
        """Metadata, JWKS and status list on a free loopback port, for services in other processes
        or languages; they know of a revocation within a second.

        Gives an issuer with the same keys whose name is that address, since verifiers compare:
        take tokens from that one.
        """
        with serving() as (url, documents):
            served = TestIssuer(url, audience=self.audience, clock=self._clock)
            served._keys = self._keys
            served._revocations = self._revocations
            documents.update(served._documents())
            yield served

    def _documents(self) -> Documents:
        """By path, made anew for each request: keys are rotated."""
        host = metadata_url(self.issuer).split("/.well-known/")[0]
        path = self.issuer.rstrip("/").removeprefix(host)
        return {
            f"/.well-known/oauth-authorization-server{path}": self.metadata,
            "/.well-known/oauth-authorization-server": self.metadata,  # mounted at `path`
            f"{path}/.well-known/openid-configuration": self.metadata,
            "/.well-known/openid-configuration": self.metadata,
            path + _JWKS_PATH: self.jwks,
            _JWKS_PATH: self.jwks,
            path + LISTS_PATH: self._lists,
            LISTS_PATH: self._lists,
            f"{path}{LISTS_PATH}/s0": self._list,
            f"{LISTS_PATH}/s0": self._list,
        }

    def _lists(self) -> dict[str, Any]:
        return {"status_lists": [list_uri(self.issuer)]}

    def _list(self) -> bytes:
        return self._revocations.list_token(self.issuer, self._keys, self._now())

    # --- tokens -----------------------------------------------------------------------------------

    def token(
        self,
        *,
        sub: str | None = None,
        scope: str = "",
        client_id: str = "test-client",
        audience: str | Sequence[str] | None = None,
        **claims: object,
    ) -> str:
        """A good access token: a user's, or without `sub` the client's own (client credentials).

        Further arguments are claims: `roles=["clerk"]`, `exp=...`; None leaves one out.
        """
        return self._sign(self._claims(sub, scope, client_id, audience, claims))

    def expired(self, **token: Any) -> str:
        """Good an hour ago. Arguments here and below as in `token`."""
        now = self._now()
        return self.token(**{"iat": now - _HOUR_S, "exp": now - _HOUR_S + _LIFETIME_S, **token})

    def not_yet_valid(self, **token: Any) -> str:
        """Good in an hour (`nbf`)."""
        now = self._now()
        return self.token(**{"nbf": now + _HOUR_S, "exp": now + _HOUR_S + _LIFETIME_S, **token})

    def wrong_audience(self, **token: Any) -> str:
        """For another service."""
        return self.token(**{**token, "audience": "https://another-service.test"})

    def wrong_issuer(self, **token: Any) -> str:
        """Another issuer's name over this one's signature."""
        return self.token(**{**token, "iss": "https://another-issuer.test"})

    def wrong_type(self, **token: Any) -> str:
        """`typ` is JWT, as of an ID token (RFC 8725 3.11)."""
        return self._sign(self._read(token), typ="JWT")

    def wrong_key(self, **token: Any) -> str:
        """A stranger's signature under a published `kid`."""
        key = signing_key(self.issuer, -1)
        return sign(self._header(kid=self._keys.current().kid), self._read(token), key)

    def unknown_key(self, **token: Any) -> str:
        """A stranger's signature under a `kid` that is not published."""
        key = signing_key(self.issuer, -1)
        return sign(self._header(kid=key.kid), self._read(token), key)

    def tampered(self, **token: Any) -> str:
        """Somebody else's subject, put in after the signature."""
        claims = self._read(token)
        header, _, signature = self._sign(claims).split(".")
        return f"{header}.{encode_json({**claims, 'sub': 'usr_somebody_else'})}.{signature}"

    def unsigned(self, **token: Any) -> str:
        """`alg` none, and no signature (RFC 8725 2.1)."""
        header = self._header(alg="none", kid=self._keys.current().kid)
        return f"{encode_json(header)}.{encode_json(self._read(token))}."

    def confused_algorithm(self, **token: Any) -> str:
        """HS256 with the public key as the secret (RFC 8725 2.1)."""
        return sign_by_public_key(self._read(token), self._keys.current())

    def bound_to_a_key(self, **token: Any) -> str:
        """Good only with proof of possession (RFC 9449 6), shown as a bearer token."""
        return self.token(**{**token, "cnf": {"jkt": random_text()}})

    def revoke(self, token: str) -> None:
        """Revoke the session of this token: this and all others with its `sid` are refused from now
        on. ValueError for a token of this issuer's without `status`, which are the clients' own."""
        status: Any = decode_unverified(token)[1].get("status")
        if status is None:
            raise ValueError("the token has no status; give it one by sub=...")
        self._revocations.revoked.add(status["status_list"]["idx"])

    def revoked(self, **token: Any) -> str:
        """A token whose session was revoked, or a client's own, revoked as well."""
        claims = self._read(token)
        claims.setdefault("status", self._revocations.claim(random_text(), self.issuer))
        made = self._sign(claims)
        self.revoke(made)
        return made

    def flawed(self, flaw: str, **token: Any) -> str:
        """The token with this one of FLAWS."""
        if flaw not in self.FLAWS:
            raise ValueError(f"no such flaw; there are {', '.join(self.FLAWS)}")
        made: str = getattr(self, flaw)(**token)
        return made

    def rotated(self, **token: Any) -> str:
        """Rotate, and give a token of the new key. Those of older keys stay good."""
        self._keys.rotate()
        return self.token(**token)

    def compromised(self, **token: Any) -> str:
        """Withdraw all keys at once, as after a leak, and give a token of the leaked one: bad from
        now on, for whoever has looked at the published keys since."""
        leaked = self.token(**token)
        self._keys.rotate(is_compromised=True)
        return leaked

    def _now(self) -> int:
        return int(self._clock())

    def _read(self, token: dict[str, Any]) -> dict[str, object]:
        """The claims of `token(**token)`."""
        named = ("sub", "scope", "client_id", "audience")
        sub, scope, client_id, audience = (token.pop(name, None) for name in named)
        return self._claims(sub, scope or "", client_id or "test-client", audience, token)

    def _claims(
        self,
        sub: str | None,
        scope: str,
        client_id: str,
        audience: str | Sequence[str] | None,
        changes: dict[str, Any],
    ) -> dict[str, object]:
        now = self._now()
        asked = self.audience if audience is None else audience
        several = [asked] if isinstance(asked, str) else list(asked)
        claims: dict[str, object] = {
            "iss": self.issuer,
            "sub": client_id if sub is None else sub,
            "aud": several[0] if len(several) == 1 else several,
            "exp": now + _LIFETIME_S,
            "iat": now,
            "jti": random_text(),
            "client_id": client_id,
        }
        if scope:
            claims["scope"] = scope
        if sub is not None:
            sid = changes.get("sid") or f"ses_{random_text()}"
            status = self._revocations.claim(str(sid), self.issuer)
            claims |= {"sid": sid, "auth_time": now, "status": status}
        claims |= changes
        return {name: value for name, value in claims.items() if value is not None}

    def _header(self, *, kid: str, alg: str = "RS256", typ: str = "at+jwt") -> dict[str, object]:
        return {"alg": alg, "kid": kid, "typ": typ}

    def _sign(self, claims: dict[str, object], typ: str = "at+jwt") -> str:
        key = self._keys.current()
        return sign(self._header(kid=key.kid, typ=typ), claims, key)
