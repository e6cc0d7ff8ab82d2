"""Tasks: the repository of their entity."""

from functools import partial

from app.entities.repository import Repository
from app.tasks.fields import TASK

# Makes the tasks of one user, from the database, the user's id and the compiled statements.
Tasks = partial(Repository, TASK)
