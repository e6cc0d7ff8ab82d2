"""PostgreSQL: connections, statements, and checks of a database.

Start at `database`, which runs a read in one round trip, a write in a transaction, and provides sessions for everything
else. `connections` is the pool, `sessions` limits sessions to their user, `statements` and `rendering` build SQL,
`cluster` writes on Citus, `checks` finds problems of a database, `embedded` runs a local one. Independent of entities.
May import `app.sharing`, `app.observability` and the modules of `app` itself.
"""
