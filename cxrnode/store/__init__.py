"""The store: SQLAlchemy Core on SQLite or PostgreSQL. The queue row is the audit row."""
