"""The grants that this server knows: one line each; metadata is computed from here."""

from collections.abc import Mapping
from types import MappingProxyType

from token_server.grants.base import Grant
from token_server.grants.client_credentials import CLIENT_CREDENTIALS
from token_server.grants.password import PASSWORD
from token_server.grants.refresh_token import REFRESH_TOKEN
from token_server.grants.token_exchange import TOKEN_EXCHANGE

GRANTS: Mapping[str, Grant] = MappingProxyType(
    {
        grant.grant_type: grant
        for grant in (CLIENT_CREDENTIALS, PASSWORD, REFRESH_TOKEN, TOKEN_EXCHANGE)
    }
)
