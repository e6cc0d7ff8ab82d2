"""Live changes: the subscribers of each user, and PostgreSQL's notifications of writes.

Start at `followers`; `listener` owns the one connection that runs LISTEN. May import `app.database` and lower layers.
"""
