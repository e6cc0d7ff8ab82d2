"""The database's history, and the role that the server uses."""
