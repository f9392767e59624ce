"""The relational store: one schema on SQLite and PostgreSQL."""
