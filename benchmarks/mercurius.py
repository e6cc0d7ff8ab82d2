"""The strong peer, benchmarks/peers/mercurius.js: its packages, its tables, and how to start it.

It needs Node.js 20 or newer with npm. Its packages are pinned in package.json, and installed into a build folder.
"""

import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import click

from benchmarks.data import PLAIN_ROLE_NAME
from benchmarks.servers import ROOT, Kind

NAME = "Mercurius"
SOURCES = ROOT / "benchmarks" / "peers"
FILES = ("package.json", "mercurius.js")

# The tasks of all users in a table as an application without TaskQL's features has it: two indexes, no triggers.
TABLES = f"""
    DROP SCHEMA IF EXISTS peer CASCADE;
    CREATE SCHEMA peer;
    CREATE TABLE peer.tasks (
        id uuid PRIMARY KEY DEFAULT uuidv7(),
        user_id uuid NOT NULL REFERENCES public.users ON DELETE CASCADE,
        title varchar(200) NOT NULL,
        description varchar(1000),
        completed boolean NOT NULL DEFAULT false,
        priority text NOT NULL DEFAULT 'NONE',
        due_date date,
        tags text[] NOT NULL DEFAULT '{{}}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    INSERT INTO peer.tasks
    SELECT id, user_id, title, description, completed,
           (ARRAY['NONE', 'LOW', 'MEDIUM', 'HIGH', 'URGENT'])[priority + 1], due_date, tags, created_at, updated_at
    FROM public.tasks;
    CREATE INDEX ON peer.tasks (user_id, created_at DESC, id DESC);
    CREATE INDEX ON peer.tasks (user_id, completed, created_at DESC, id DESC);
    GRANT USAGE ON SCHEMA peer TO {PLAIN_ROLE_NAME};
    GRANT SELECT, INSERT, UPDATE, DELETE ON peer.tasks TO {PLAIN_ROLE_NAME};
"""  # noqa: S608 - the name of a role of ours


def is_possible() -> bool:
    """Whether Node.js and npm are installed."""
    return bool(shutil.which("node") and shutil.which("npm"))


def install(folder: Path) -> Path:
    """Install the peer into a folder of the build folder. Returns its program. Raises ClickException if npm fails."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "package.json"
    is_new = not manifest.exists() or manifest.read_bytes() != (SOURCES / "package.json").read_bytes()
    for file in FILES:
        shutil.copy(SOURCES / file, folder)
    if is_new or not (folder / "node_modules").exists():
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        if subprocess.run(["npm", "install", *options], cwd=folder, check=False).returncode:  # noqa: S603, S607 - arguments of ours
            manifest.unlink()
            raise click.ClickException("npm could not install the packages of benchmarks/peers; it says why above.")
    return folder / "mercurius.js"


def kind(url: str, program: Path) -> Kind:
    """The peer, with a URL of the embedded database."""
    parts = urlsplit(url)
    where = {name: values[0] for name, values in parse_qs(parts.query).items()}
    settings = {
        "PGHOST": where["host"],
        "PGPORT": where["port"],
        "PGUSER": parts.username or "",
        "PGDATABASE": parts.path.removeprefix("/"),
        "NODE_ENV": "production",
    }
    return Kind(NAME, PLAIN_ROLE_NAME, ("node", str(program), "{port}"), settings)
