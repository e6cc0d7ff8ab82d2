"""The entity of tasks.

Start at `fields`, which declares each field of a task once. `tags` finds the tasks of a tag by an index, `viewer` reads
the user with the counts of tasks, `purge`, `restored` and `recount` are maintenance.
May import `app.entities` and lower layers. Independent of GraphQL and HTTP.
"""
