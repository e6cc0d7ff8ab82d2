"""Writes the SQL of each revision to a folder: `python -m migrations.offline FOLDER`. Needs no database."""

import shutil
import sys
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from migrations.run import config

# Revisions before the first release run only on empty databases, so that long locks do not matter.
LAST_ON_NEW_DATABASES = "0009"
ALLOWED_THERE = (
    "require-concurrent-index-creation",
    "require-concurrent-index-deletion",
    "adding-field-with-default",
    "adding-foreign-key-constraint",
    "constraint-missing-not-valid",
    "ban-drop-column",
)


def write(folder: Path) -> None:
    """Write a file of SQL for each revision. Replaces the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for step in ScriptDirectory.from_config(config()).walk_revisions():
        _write(step, folder / f"{step.revision}.sql")


def _write(step: Script, path: Path) -> None:
    with path.open("w") as file:
        if step.revision <= LAST_ON_NEW_DATABASES:
            file.write(f"-- squawk-ignore-file {', '.join(ALLOWED_THERE)}\n")
        context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": file})
        with Operations.context(context):
            step.module.upgrade()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
