"""The tables, their constraints and their indexes; the migrations must arrive at exactly this.

Instants are epoch seconds (BIGINT). Lists of scopes, audiences and grant types are stored as
space-separated text, the form that OAuth itself gives them (RFC 6749 §3.3): none of their members
can hold a space, and a person reading the table can read them. Secrets are digests or hashes.
CHECK constraints refuse the states that no code path may produce. No ORM classes.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

# SQLite numbers rows by itself only in an INTEGER PRIMARY KEY.
_RowNumber = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# A refresh and a login change no indexed column: with room on the page, PostgreSQL writes the new
# version beside the old one and leaves all indexes alone (a heap-only tuple).
_ROOM = {"fillfactor": "90"}

users = Table(
    "users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("email", Text, nullable=False),
    Column("email_canonical", Text, nullable=False, unique=True),  # find_user_by_email
    Column("name", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("credential_version", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("password_changed_at", BigInteger, nullable=False),
    Column("last_login_at", BigInteger),
    Column("roles", Text, nullable=False, server_default=text("''")),
    CheckConstraint("credential_version >= 0", name="credential_version"),
    postgresql_with=_ROOM,
)

clients = Table(
    "clients",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("is_public", Boolean, nullable=False),
    Column("is_enabled", Boolean, nullable=False),
    Column("grant_types", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("audiences", Text, nullable=False),
    Column("default_audience", Text, nullable=False),
    Column("access_token_ttl_s", BigInteger),
    Column("access_token_typ", Text),
    Column("refresh_idle_ttl_s", BigInteger),
    Column("refresh_absolute_ttl_s", BigInteger),
    Column("refresh_replay_window_s", BigInteger),
    Column("shadow_limit", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("serves_audiences", Text, nullable=False, server_default=text("''")),
    Column("exchange_audiences", Text, nullable=False, server_default=text("''")),
    Column("is_revocable", Boolean, nullable=False, server_default=false()),
    CheckConstraint("access_token_ttl_s > 0", name="access_token_ttl_s"),
    CheckConstraint("refresh_idle_ttl_s > 0", name="refresh_idle_ttl_s"),
    CheckConstraint("refresh_absolute_ttl_s > 0", name="refresh_absolute_ttl_s"),
    CheckConstraint("refresh_replay_window_s >= 0", name="refresh_replay_window_s"),
    CheckConstraint("shadow_limit > 0", name="shadow_limit"),
)

client_secrets = Table(
    "client_secrets",
    metadata,
    Column("secret_id", Text, primary_key=True),
    Column("client_id", Text, ForeignKey("clients.client_id", ondelete="CASCADE"), nullable=False),
    Column("secret_digest", LargeBinary, nullable=False),
    Column("label", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    CheckConstraint("length(secret_digest) = 32", name="secret_digest"),
    Index("ix_client_secrets_client_id", "client_id"),  # find_client, list_clients
)

_LIVE = text("revoked_at IS NULL")
_REVOKED = text("revoked_at IS NOT NULL")

families = Table(
    "families",
    metadata,
    # Also the position in the status list: grows, and is never given twice (AUTOINCREMENT).
    Column("seq", _RowNumber, Identity(always=True), primary_key=True),
    Column("family_id", LargeBinary, nullable=False, unique=True),  # find_family, rotate_families
    Column("sid", Text, nullable=False, unique=True),
    # No foreign keys: a row stays until its tokens are past, whatever becomes of client and user.
    Column("client_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("audience", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("mac_version", BigInteger, nullable=False),
    Column("auth_time", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("rotated_at", BigInteger),
    Column("idle_expires_at", BigInteger, nullable=False),
    Column("absolute_expires_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("revoked_reason", Text),
    Column("replayed_generation", BigInteger),
    Column("shadow_count", BigInteger, nullable=False, server_default=text("0")),
    Column("label", Text),
    Column("ip_address", Text),
    Column("user_agent", Text),
    CheckConstraint("length(family_id) = 16", name="family_id"),
    CheckConstraint("generation >= 0", name="generation"),
    CheckConstraint("(generation = 0) = (rotated_at IS NULL)", name="rotated_at"),
    CheckConstraint("idle_expires_at <= absolute_expires_at", name="idle_expires_at"),
    CheckConstraint("(revoked_at IS NULL) = (revoked_reason IS NULL)", name="revoked"),
    CheckConstraint("replayed_generation < generation", name="replayed_generation"),
    CheckConstraint("shadow_count >= 0", name="shadow_count"),
    # Only live rows are asked for by user or client; a rotation changes no indexed column.
    Index("ix_families_user_id", "user_id", postgresql_where=_LIVE, sqlite_where=_LIVE),
    Index("ix_families_client_id", "client_id", postgresql_where=_LIVE, sqlite_where=_LIVE),
    Index("ix_families_absolute_expires_at", "absolute_expires_at"),  # prune_families
    # What was revoked since: the status lists of all instances follow it.
    Index("ix_families_revoked_at", "revoked_at", postgresql_where=_REVOKED, sqlite_where=_REVOKED),
    sqlite_autoincrement=True,
    # By default vacuum would wait until a fifth of all sessions was pruned.
    postgresql_with={
        **_ROOM,
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_analyze_scale_factor": "0.05",
    },
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", _RowNumber, Identity(always=True), primary_key=True),  # list_events
    Column("at", BigInteger, nullable=False),
    Column("event", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("subject", Text),
    Column("client_id", Text),
    Column("reason", Text),
    Column("ip_address", Text),
    Column("request_id", Text),
    Column("details", Text, nullable=False),  # a JSON object
    Index("ix_audit_events_at", "at"),  # prune_events
    sqlite_autoincrement=True,
)

throttles = Table(
    "throttles",
    metadata,
    Column("bucket", Text, primary_key=True),
    # Epoch MILLISECONDS: the theoretical arrival time of GCRA, finer than a stored instant.
    Column("full_at", BigInteger, nullable=False),
    Index("ix_throttles_full_at", "full_at"),  # prune_throttles
)

# With KEY_STORE=database. One row, whose generation every change of a key compares and raises.
keyring = Table(
    "keyring",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("keyring_id", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("master_key_check", Text, nullable=False),
    Column("seal", Text, nullable=False),  # MAC over this row and all of signing_keys
    Column("served_at", BigInteger),  # the newest word of a process that serves these keys
    Column("serving", Text),  # and what it plans by: a JSON object
    CheckConstraint("id = 1", name="id"),
    CheckConstraint("generation > 0", name="generation"),
    CheckConstraint("(served_at IS NULL) = (serving IS NULL)", name="serving"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("position", BigInteger, nullable=False, unique=True),  # the seal covers the order
    Column("alg", Text, nullable=False),
    Column("bits", BigInteger, nullable=False),
    Column("n", LargeBinary, nullable=False),  # public modulus, big-endian
    Column("e", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("published_at", BigInteger),
    Column("activate_at", BigInteger),
    Column("retire_at", BigInteger),
    Column("exp_high_water", BigInteger),
    Column("compromised_at", BigInteger),
    Column("master_version", BigInteger),
    Column("private_pem", Text),  # PKCS#8, encrypted under that version of the master key
    CheckConstraint("(master_version IS NULL) = (private_pem IS NULL)", name="private_pem"),
)


# Positions of machine tokens in status lists, 1,024 to a block, reserved by one insert.
status_blocks = Table(
    "status_blocks",
    metadata,
    Column("block", _RowNumber, Identity(always=True), primary_key=True),  # never given twice
    Column("reserved_at", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

revoked_positions = Table(
    "revoked_positions",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # of a machine token
    Column("revoked_at", BigInteger, nullable=False),
    Index("ix_revoked_positions_revoked_at", "revoked_at"),
)

# Machine tokens without a position that were revoked: introspection knows them by their `jti`.
denied_tokens = Table(
    "denied_tokens",
    metadata,
    Column("jti", Text, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_denied_tokens_expires_at", "expires_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.user_id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("secret_digest", LargeBinary, nullable=False),
    Column("scope", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    Column("revoked_at", BigInteger),
    # Which number of a machine token all access tokens from this key carry today, and carried.
    Column("status_number", BigInteger),
    Column("status_taken_at", BigInteger),
    Column("previous_status_number", BigInteger),
    CheckConstraint("length(secret_digest) = 32", name="secret_digest"),
    Index("ix_api_keys_user_id", "user_id"),  # list_keys, insert_key, revoke_keys_of_user
    Index("ix_api_keys_expires_at", "expires_at"),  # prune_keys
    Index("ix_api_keys_revoked_at", "revoked_at"),
)


def join_words(words: frozenset[str] | tuple[str, ...]) -> str:
    """The stored form of a list; a set is sorted. Refuses a member that could not be read back."""
    members = sorted(words) if isinstance(words, frozenset) else words
    stored = " ".join(members)
    if tuple(stored.split()) != tuple(members):
        raise ValueError("a member is empty or holds white space")
    return stored


def split_words(stored: str) -> tuple[str, ...]:
    return tuple(stored.split())
