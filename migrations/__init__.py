"""Database migrations, and the creation of the server's role."""
