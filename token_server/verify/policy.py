"""How strict a verifier is: settings with bounds, since a slip here is an open door.

The defaults fit this server (RFC 9068 4, RFC 8725 3.11).
"""

from dataclasses import dataclass

MAX_TOKEN_BYTES = 16 * 1024
_MAX_LEEWAY_S = 60
_TYPS = frozenset({"at+jwt", "jwt"})


@dataclass(frozen=True, slots=True)
class Policy:
    """How strict; the defaults fit this server. Raises ValueError for a setting out of bounds."""

    accept_typ: tuple[str, ...] = ("at+jwt",)
    """("at+jwt", "JWT") where the server runs with ACCESS_TOKEN_TYP=JWT."""
    leeway_s: int = 0
    """Added to `exp`, `nbf` and `iat` in the token's favour; at most 60."""
    iat_skew_s: int = 10
    """How far the issuer's clock may be ahead of ours: the server's CLOCK_SKEW; at most 60."""
    max_lifetime_s: int = 86_400
    """`exp` minus `iat` at most; raise it where the server's ACCESS_TOKEN_TTL is longer."""
    max_token_bytes: int = MAX_TOKEN_BYTES
    allow_missing_kid: bool = False
    """Take a token without `kid` when the set holds exactly one key."""

    def __post_init__(self) -> None:
        if not self.accept_typ or not _TYPS.issuperset(typ.lower() for typ in self.accept_typ):
            raise ValueError("accept_typ is a tuple of at+jwt and JWT")
        for name, value, highest in (
            ("leeway_s", self.leeway_s, _MAX_LEEWAY_S),
            ("iat_skew_s", self.iat_skew_s, _MAX_LEEWAY_S),
            ("max_lifetime_s", self.max_lifetime_s, 2**31),
            ("max_token_bytes", self.max_token_bytes, 2**20),
        ):
            if type(value) is not int or not 0 <= value <= highest:
                raise ValueError(f"{name} is an integer from 0 to {highest}")

    @property
    def media_types(self) -> frozenset[str]:
        """The accepted `typ` values in lower case, with and without the prefix (RFC 7515 4.1.9)."""
        return frozenset(
            prefix + typ.lower() for typ in self.accept_typ for prefix in ("", "application/")
        )


DEFAULT_POLICY = Policy()
