"""The repository of tasks."""

from functools import partial

from app.entities.repository import Repository
from app.tasks.fields import TASK

# Creates the repository of one user, from the database, the user's id and the compiled statements.
Tasks = partial(Repository, TASK)
