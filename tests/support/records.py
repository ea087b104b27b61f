"""Records to start from in tests of pure decisions: `replace(CLIENT, ...)`."""

from tests.support.databases import TEST_EPOCH
from token_server.records import Client

CLIENT = Client(
    client_id="app",
    name="app",
    is_public=True,
    is_enabled=True,
    grant_types=frozenset({"password", "refresh_token"}),
    scopes=("orders:read", "orders:write"),
    audiences=("https://orders.example",),
    default_audience=(),
    access_token_ttl_s=None,
    access_token_typ=None,
    refresh_idle_ttl_s=None,
    refresh_absolute_ttl_s=None,
    refresh_replay_window_s=None,
    shadow_limit=None,
    created_at=TEST_EPOCH,
    updated_at=TEST_EPOCH,
)
