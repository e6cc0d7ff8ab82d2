"""PostgreSQL: connections, statements, and what must hold of a database.

Start at `database`, which runs a read in one round trip, a write in a transaction, and lends sessions for everything
else. `connections` lends connections, `sessions` narrows sessions to their user, `statements` and `rendering` build
SQL, `checks` says what is wrong with a database, `embedded` brings one along. Knows no entity. May import
`app.sharing`, `app.observability` and the modules of `app` itself.
"""
