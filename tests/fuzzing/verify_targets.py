"""The verification library's readers.

Past the signature a key is used that takes every signature: otherwise no changed claim would ever
be looked at.
"""

from tests.fuzzing.target import Target, require
from tests.verify import forge
from tests.verify.key_servers import key_set
from token_server.verify import (
    InvalidRequestError,
    KeySetError,
    StaticKeySet,
    TokenError,
    Verifier,
    decode_unverified,
    read_bearer,
)
from token_server.verify.keys import VerificationKey
from token_server.verify.strict import StrictnessError, decode_object
from token_server.verify.urls import check_url


class CredulousKey(VerificationKey):
    """Takes every signature: what comes after it is to be reached."""

    def is_digest_signed(self, digest: bytes, signature: bytes) -> bool:  # noqa: ARG002
        return True


KEYS = StaticKeySet([CredulousKey(forge.kid(), forge.private_key("good").public_key())])
VERIFIER = Verifier(
    issuer=forge.ISSUER, audience=forge.AUDIENCE, keys=KEYS, clock=lambda: forge.NOW
)
HEADER = forge.b64(forge.compact_json(forge.header()))


def token(data: bytes) -> None:
    """The whole text, as it stands in an Authorization header."""
    text = data.decode("latin-1")
    for read in (VERIFIER.verify_sync, decode_unverified):
        try:
            read(text)
        except TokenError:
            continue


def header(data: bytes) -> None:
    """Any bytes as the header of a token that is good otherwise."""
    _verify(f"{forge.b64(data)}.{forge.b64(forge.compact_json(forge.claims()))}.AAAA")


def claims(data: bytes) -> None:
    """Any bytes as the claims of a token that is signed."""
    _verify(f"{HEADER}.{forge.b64(data)}.AAAA")


def _verify(text: str) -> None:
    try:
        found = VERIFIER.verify_sync(text)
    except TokenError:
        return
    is_sound = found.subject and forge.AUDIENCE in found.audience and found.expires_at > forge.NOW
    require(bool(is_sound), "accepted what must not be accepted")


def jwks(data: bytes) -> None:
    """A key set, or metadata, as a server may send it."""
    try:
        document = decode_object(data)
    except StrictnessError:
        document = {}
    for uri in (document.get("issuer"), document.get("jwks_uri")):
        if isinstance(uri, str):
            try:
                check_url(uri, "jwks_uri")
            except ValueError:
                continue
    try:
        StaticKeySet.from_jwks(data)
    except KeySetError:
        return


def bearer(data: bytes) -> None:
    """The value of an Authorization header, behind its scheme and without."""
    text = data.decode("latin-1")
    for value in (text, "Bearer " + text):
        try:
            read_bearer([value])
        except InvalidRequestError:
            continue


TARGETS = {
    "token": Target(token, (forge.token().encode(),)),
    "header": Target(header, (forge.compact_json(forge.header()),)),
    "claims": Target(claims, (forge.compact_json(forge.claims()), b'{"nbf":1,"act":{"act":{}}}')),
    "jwks": Target(
        jwks, (key_set("good"), b'{"issuer":"https://a.example","jwks_uri":"https://b/"}')
    ),
    "bearer": Target(bearer, (b"Bearer abc=", b"Basic dTpw")),
}
