"""Signing keys in the database: the keyring's one row and a row for each key.

Old code may go on serving meanwhile: it keeps its keys in a directory and does not read these
tables, which stay empty until somebody states KEY_STORE=database.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "keyring",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("keyring_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("master_key_check", sa.Text(), nullable=False),
        sa.Column("seal", sa.Text(), nullable=False),
        sa.Column("served_at", sa.BigInteger()),
        sa.Column("serving", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_keyring"),
        sa.CheckConstraint("id = 1", name=op.f("ck_keyring_id")),
        sa.CheckConstraint("generation > 0", name=op.f("ck_keyring_generation")),
        sa.CheckConstraint(
            "(served_at IS NULL) = (serving IS NULL)", name=op.f("ck_keyring_serving")
        ),
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("alg", sa.Text(), nullable=False),
        sa.Column("bits", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.LargeBinary(), nullable=False),
        sa.Column("e", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.BigInteger()),
        sa.Column("activate_at", sa.BigInteger()),
        sa.Column("retire_at", sa.BigInteger()),
        sa.Column("exp_high_water", sa.BigInteger()),
        sa.Column("compromised_at", sa.BigInteger()),
        sa.Column("master_version", sa.BigInteger()),
        sa.Column("private_pem", sa.Text()),
        sa.PrimaryKeyConstraint("kid", name="pk_signing_keys"),
        sa.UniqueConstraint("position", name="uq_signing_keys_position"),
        sa.CheckConstraint(
            "(master_version IS NULL) = (private_pem IS NULL)",
            name=op.f("ck_signing_keys_private_pem"),
        ),
    )
