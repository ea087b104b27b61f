"""All SQL and nothing else: SQLAlchemy Core, one implementation for SQLite and PostgreSQL."""
