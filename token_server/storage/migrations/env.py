"""Alembic's entry: runs the revisions on the connection that `run_alembic` hands over.

It opens nothing and commits nothing itself: one transaction, the caller's, holds all of it.
"""

from alembic import context

from token_server.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's DDL is, too, inside our own BEGIN IMMEDIATE
)
with context.begin_transaction():
    context.run_migrations()
