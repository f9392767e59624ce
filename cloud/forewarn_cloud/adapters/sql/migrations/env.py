"""Run by Alembic: migrates over the connection that `migrating.migrate` has opened."""

from alembic import context

from forewarn_cloud.adapters.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_server_default=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
