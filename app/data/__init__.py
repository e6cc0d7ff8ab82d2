"""Commands that move the data of users: seed, reset, users, export, import.

Start at `lines`, the format of exports. `rows` writes lists and tasks as the server does, for `importing` and
`seeding`. May import `app.identity` and lower layers. Independent of GraphQL and HTTP.
"""
