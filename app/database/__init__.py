"""PostgreSQL: connections, statements, and what must hold of a database.

Start at `database`, which runs a read in one round trip and a write in a transaction. `connections` lends connections,
`statements` and `rendering` build SQL, `checks` says what is wrong with a database, `embedded` brings one along.
Knows no entity. May import `app.sharing`, `app.observability` and the modules of `app` itself.
"""
