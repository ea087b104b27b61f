"""Initial schema: meta, users, clients and their secrets, refresh families, audit events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_LIVE = sa.text("revoked_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )
    _create_users()
    _create_clients()
    _create_families()
    _create_audit_events()


def _create_users() -> None:
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("email_canonical", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("credential_version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("password_changed_at", sa.BigInteger(), nullable=False),
        sa.Column("last_login_at", sa.BigInteger()),
        sa.CheckConstraint("credential_version >= 0", name=op.f("ck_users_credential_version")),
        sa.PrimaryKeyConstraint("user_id", name="pk_users"),
        sa.UniqueConstraint("email_canonical", name="uq_users_email_canonical"),
    )


def _create_clients() -> None:
    op.create_table(
        "clients",
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_public", sa.Boolean(), nullable=False),
        sa.Column("is_enabled", sa.Boolean(), nullable=False),
        sa.Column("grant_types", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("audiences", sa.Text(), nullable=False),
        sa.Column("default_audience", sa.Text(), nullable=False),
        sa.Column("access_token_ttl_s", sa.BigInteger()),
        sa.Column("access_token_typ", sa.Text()),
        sa.Column("refresh_idle_ttl_s", sa.BigInteger()),
        sa.Column("refresh_absolute_ttl_s", sa.BigInteger()),
        sa.Column("refresh_replay_window_s", sa.BigInteger()),
        sa.Column("shadow_limit", sa.BigInteger()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("access_token_ttl_s > 0", name=op.f("ck_clients_access_token_ttl_s")),
        sa.CheckConstraint("refresh_idle_ttl_s > 0", name=op.f("ck_clients_refresh_idle_ttl_s")),
        sa.CheckConstraint(
            "refresh_absolute_ttl_s > 0", name=op.f("ck_clients_refresh_absolute_ttl_s")
        ),
        sa.CheckConstraint(
            "refresh_replay_window_s >= 0", name=op.f("ck_clients_refresh_replay_window_s")
        ),
        sa.CheckConstraint("shadow_limit > 0", name=op.f("ck_clients_shadow_limit")),
        sa.PrimaryKeyConstraint("client_id", name="pk_clients"),
    )
    op.create_table(
        "client_secrets",
        sa.Column("secret_id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("secret_digest", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("last_used_at", sa.BigInteger()),
        sa.CheckConstraint(
            "length(secret_digest) = 32", name=op.f("ck_client_secrets_secret_digest")
        ),
        sa.PrimaryKeyConstraint("secret_id", name="pk_client_secrets"),
        sa.ForeignKeyConstraint(
            ["client_id"],
            ["clients.client_id"],
            name="fk_client_secrets_client_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_client_secrets_client_id", "client_secrets", ["client_id"])


def _create_families() -> None:
    op.create_table(
        "families",
        sa.Column("seq", _ROW_NUMBER, sa.Identity(always=True), nullable=False),
        sa.Column("family_id", sa.LargeBinary(), nullable=False),
        sa.Column("sid", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("mac_version", sa.BigInteger(), nullable=False),
        sa.Column("auth_time", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("rotated_at", sa.BigInteger()),
        sa.Column("idle_expires_at", sa.BigInteger(), nullable=False),
        sa.Column("absolute_expires_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger()),
        sa.Column("revoked_reason", sa.Text()),
        sa.Column("replayed_generation", sa.BigInteger()),
        sa.Column("shadow_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("label", sa.Text()),
        sa.Column("ip_address", sa.Text()),
        sa.Column("user_agent", sa.Text()),
        *(sa.CheckConstraint(rule, name=op.f(name)) for name, rule in _FAMILY_RULES.items()),
        sa.PrimaryKeyConstraint("seq", name="pk_families"),
        sa.UniqueConstraint("family_id", name="uq_families_family_id"),
        sa.UniqueConstraint("sid", name="uq_families_sid"),
        sqlite_autoincrement=True,
    )
    for column in ("user_id", "client_id"):
        op.create_index(
            f"ix_families_{column}",
            "families",
            [column],
            postgresql_where=_LIVE,
            sqlite_where=_LIVE,
        )
    op.create_index("ix_families_absolute_expires_at", "families", ["absolute_expires_at"])


_FAMILY_RULES = {
    "ck_families_family_id": "length(family_id) = 16",
    "ck_families_generation": "generation >= 0",
    "ck_families_rotated_at": "(generation = 0) = (rotated_at IS NULL)",
    "ck_families_idle_expires_at": "idle_expires_at <= absolute_expires_at",
    "ck_families_revoked": "(revoked_at IS NULL) = (revoked_reason IS NULL)",
    "ck_families_replayed_generation": "replayed_generation < generation",
    "ck_families_shadow_count": "shadow_count >= 0",
}


def _create_audit_events() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", _ROW_NUMBER, sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text()),
        sa.Column("client_id", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("ip_address", sa.Text()),
        sa.Column("request_id", sa.Text()),
        sa.Column("details", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_events_at", "audit_events", ["at"])
