"""People: roles of users, budgets for guessing, and the built-in public client `account`.

Old code may go on serving meanwhile: the new column has a default, and what is new besides is
not read by it. The id `account` was reserved from the first release on, so its row is free.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# The instant is the database's: a migration has no runtime whose clock it could ask.
_NOW = {
    "sqlite": "CAST(strftime('%s', 'now') AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM now()) AS BIGINT)",
}


def upgrade() -> None:
    roles = sa.Column("roles", sa.Text(), server_default=sa.text("''"), nullable=False)
    op.add_column("users", roles)
    op.create_table(
        "throttles",
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("full_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", name="pk_throttles"),
    )
    op.create_index("ix_throttles_full_at", "throttles", ["full_at"])
    now = _NOW[op.get_context().dialect.name]
    op.execute(
        f"""
        INSERT INTO clients (client_id, name, is_public, is_enabled, grant_types, scopes,
                             audiences, default_audience, created_at, updated_at)
        VALUES ('account', 'Account API', true, true, 'refresh_token', '', '', '', {now}, {now})
        """  # noqa: S608 - constants of this module
    )
