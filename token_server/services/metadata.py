"""The authorization server's metadata, computed from the registry and the settings (RFC 8414).

Honest: it names what is served and nothing else, and nothing in it is written twice.
"""

from collections.abc import Iterable

from token_server.config import Settings
from token_server.core.client_auth import ClientAuthMethod
from token_server.core.status_list import PATH as STATUS_LISTS_PATH
from token_server.crypto.rsa_keys import ALG

TOKEN_PATH = "/oauth2/token"
REVOCATION_PATH = "/oauth2/revoke"
INTROSPECTION_PATH = "/oauth2/introspect"
JWKS_PATH = "/.well-known/jwks.json"


def server_metadata(settings: Settings, grant_types: Iterable[str]) -> dict[str, str | list[str]]:
    """The document; every URL is built from the configured issuer, never from a header."""
    base = settings.issuer.rstrip("/")
    methods = [method.value for method in ClientAuthMethod]
    return {
        "issuer": settings.issuer,
        "token_endpoint": base + TOKEN_PATH,
        "jwks_uri": base + JWKS_PATH,
        "status_list_aggregation_endpoint": base + STATUS_LISTS_PATH,
        "response_types_supported": [],  # required by RFC 8414 §2; there is no such endpoint
        "grant_types_supported": sorted(grant_types),
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint": base + REVOCATION_PATH,
        "revocation_endpoint_auth_methods_supported": methods,
        "introspection_endpoint": base + INTROSPECTION_PATH,
        # Not for public clients: anybody could ask in their name (RFC 7662 §2.1).
        "introspection_endpoint_auth_methods_supported": [
            method for method in methods if method != ClientAuthMethod.NONE
        ],
        "introspection_signing_alg_values_supported": [ALG],
    }
