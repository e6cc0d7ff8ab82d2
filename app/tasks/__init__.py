"""Tasks: what a user owns, and the SQL that reads and writes it.

Start at `repository`: its class `Tasks` is the only way from the API to tasks. `reading`, `writing`, `bulk`, `moving`
and `changes` build the statements; `filters`, `ordering` and `cursors` are parts of them; `problems` checks input.
May import `app.live`, `app.database` and what is below. It knows neither GraphQL nor HTTP.
"""
