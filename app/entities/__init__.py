"""Operations common to all entities: rows of a user that can be listed, written, moved, deleted, restored and followed.

Start at `entity`, which defines an entity; `repository` is the only way from the API to its rows. `reading`, `writing`,
`bulk`, `moving` and `changes` build the statements; `filters`, `ordering` and `cursors` are parts of them; `content`
checks and binds input, `kinds` has definitions shared by similar fields.
May import `app.live`, `app.database` and lower layers. Independent of any particular entity, of GraphQL and of HTTP.
"""
