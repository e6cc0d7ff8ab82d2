"""Authentication: bearer tokens, the key sets of issuers, and accounts that TaskQL creates itself.

Start at `tokens`, which turns an Authorization header into a Principal. May import `app.tasks` and lower layers.
"""
