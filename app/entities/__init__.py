"""What all entities share: rows that belong to a user, can be listed, written, moved, put in the trash and followed.

Start at `entity`, which says what an entity is; `repository` is the only way from the API to its rows. `reading`,
`writing`, `bulk`, `moving` and `changes` build the statements; `filters`, `ordering` and `cursors` are parts of them;
`content` checks and binds what callers write, `kinds` has what fields of one kind have in common.
May import `app.live`, `app.database` and what is below. It knows no particular entity, and neither GraphQL nor HTTP.
"""
