"""Room for new versions of a row beside the old one, and vacuum before a fifth of a table is dead.

PostgreSQL only: SQLite changes rows in place. Takes no lock that a server would wait for, and old
code may go on serving; pages that are full already get their room as their rows change.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        "ALTER TABLE families SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02,"
        " autovacuum_analyze_scale_factor = 0.05)"
    )
    op.execute("ALTER TABLE users SET (fillfactor = 90)")
