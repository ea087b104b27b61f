"""Revocation that others can check: status lists, denied tokens, API keys, policies of clients.

Old code may go on serving meanwhile: new columns have defaults, and new tables are not read by it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_REVOKED = sa.text("revoked_at IS NOT NULL")


def upgrade() -> None:
    for name in ("serves_audiences", "exchange_audiences"):
        column = sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False)
        op.add_column("clients", column)
    op.add_column(
        "clients",
        sa.Column("is_revocable", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.create_index(
        "ix_families_revoked_at",
        "families",
        ["revoked_at"],
        postgresql_where=_REVOKED,
        sqlite_where=_REVOKED,
    )
    _create_status_tables()
    _create_api_keys()


def _create_status_tables() -> None:
    op.create_table(
        "status_blocks",
        sa.Column("block", _ROW_NUMBER, sa.Identity(always=True), nullable=False),
        sa.Column("reserved_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("block", name="pk_status_blocks"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "revoked_positions",
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_revoked_positions"),
    )
    op.create_index("ix_revoked_positions_revoked_at", "revoked_positions", ["revoked_at"])
    op.create_table(
        "denied_tokens",
        sa.Column("jti", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("jti", name="pk_denied_tokens"),
    )
    op.create_index("ix_denied_tokens_expires_at", "denied_tokens", ["expires_at"])


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_digest", sa.LargeBinary(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("length(secret_digest) = 32", name="secret_digest"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.user_id"], name="fk_api_keys_user_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"])
