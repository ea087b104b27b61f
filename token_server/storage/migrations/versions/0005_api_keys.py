"""API keys: where the access tokens that were exchanged for a key stand in the status lists.

Old code may go on serving meanwhile: it neither makes nor reads API keys.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for name in ("status_number", "status_taken_at", "previous_status_number"):
        op.add_column("api_keys", sa.Column(name, sa.BigInteger(), nullable=True))
    for name in ("expires_at", "revoked_at"):
        op.create_index(f"ix_api_keys_{name}", "api_keys", [name])
