"""What several commands of the command line share: the settings, and the option of the embedded database."""

from pathlib import Path

import click

from app import settings as configuration
from app.observability import logs
from app.settings import Settings

data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Directory of the embedded database. [TASKQL_DATA_DIR]"
)


def loaded(**options: object) -> Settings:
    """The settings with these options instead, and logging configured by them."""
    settings = configuration.load(**options)
    logs.configure(settings)
    return settings
