"""Who is asking: bearer tokens, the key sets of issuers, and the users that TaskQL makes itself.

Start at `tokens`, which turns an Authorization header into a Principal. May import `app.tasks` and what is below.
"""
