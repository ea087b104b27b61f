"""How soon the verifiers of this world learn a new key and drop a bad one, and what that costs.

A key that signs before verifiers know it is refused by those whose copy of the JWKS is older than
it. The figures are the defaults of each product, with sources in docs/keys.md; nothing here is
enforced: KEY_LEAD is what keeps planned rotations clear of all of it.
"""

from dataclasses import dataclass

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class VerifierKind:
    """One kind, with its defaults. Seconds."""

    name: str
    polls_s: int  # its copy of the JWKS is never older
    refetches_after_s: int | None  # for an unknown kid, if the copy is so old; None: it never does
    first_fails: bool = False  # the request that meets the unknown kid fails all the same


@dataclass(frozen=True, slots=True)
class Effect:
    """What a switch costs one kind of verifier."""

    verifier: str
    refuses_for_s: int  # it may refuse tokens of the new key for so long; 0: it does not
    first_fails: bool  # and then still the first request of each process
    trusts_dropped_for_s: int  # it may go on accepting a key that was dropped for so long


def verifier_kinds(jwks_max_age_s: int) -> tuple[VerifierKind, ...]:
    """Those that matter, the quickest first; `jwks_max_age_s` is what the JWKS promises."""
    return (
        VerifierKind("token_server.verify", jwks_max_age_s, 10),
        VerifierKind("Spring Security (Nimbus)", 300, 0),
        VerifierKind("PyJWT PyJWKClient", 300, 30),
        VerifierKind("npm jose createRemoteJWKSet", 600, 30),
        VerifierKind("whoever polls at max-age", jwks_max_age_s, None),
        VerifierKind("Envoy jwt_authn", 600, None),
        VerifierKind("Istio (istiod)", 1200, None),
        VerifierKind("Amazon API Gateway", 2 * HOUR_S, None),
        VerifierKind("ASP.NET Core JwtBearer", 12 * HOUR_S, 300, first_fails=True),
        VerifierKind("Microsoft.IdentityModel until 2021", 24 * HOUR_S, 30, first_fails=True),
    )


def effects_of_switch(known_s: int, jwks_max_age_s: int) -> tuple[Effect, ...]:
    """What happens when a key signs that was served for `known_s` (0: never)."""
    return tuple(_effect(kind, known_s) for kind in verifier_kinds(jwks_max_age_s))


def _effect(kind: VerifierKind, known_s: int) -> Effect:
    if known_s >= kind.polls_s:
        return Effect(kind.name, 0, first_fails=False, trusts_dropped_for_s=kind.polls_s)
    waits_s = kind.polls_s
    if kind.refetches_after_s is not None:
        waits_s = min(waits_s, kind.refetches_after_s)
    return Effect(
        kind.name, max(0, waits_s - known_s), kind.first_fails, trusts_dropped_for_s=kind.polls_s
    )
