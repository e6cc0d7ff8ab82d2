"""Live changes: who follows a user, and how PostgreSQL tells of a write.

Start at `followers`; `listener` holds the one connection that listens. May import `app.database` and what is below.
"""
