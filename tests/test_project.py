"""Rules of the project: the direction of imports, documentation, and committed files."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLScalarType,
    is_introspection_type,
    is_specified_scalar_type,
    parse,
    validate,
)

from app.database.checks import FORCED
from app.models import Base
from app.settings import Settings, variable
from schema import schema, sdl
from schema.engine.direct import core

# From top to bottom: a module imports from its own package and from lower ones, never from higher ones.
PACKAGES = [
    "app.cli",
    "app.cli_data",
    "app.cli_options",
    "app.main",
    "app.startup",
    "schema",
    "schema.engine",
    "app.web",
    # Reads and writes users with their tasks, from commands alone.
    "app.data",
    "app.identity",
    "app.tasks",
    "app.entities",
    "app.live",
    "migrations",
    "app.database",
    "app.sharing",
    "app.observability",
    "app",
]
SPEAKS_HTTP = ("app.web", "app.observability.tracing", "app.cli", "app.main")
GRAPHQL_SCHEMA = core(schema)


def imports(path: Path, repository: Path) -> set[str]:
    """The modules that a file imports, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {imported(repository, node.module, alias.name) for alias in node.names}
    return names


def imported(repository: Path, module: str, name: str) -> str:
    """The module that `from module import name` imports: a submodule of that name, or the module itself."""
    submodule = repository / module.replace(".", "/") / f"{name}.py"
    return f"{module}.{name}" if submodule.exists() else module


def modules(repository: Path, *packages: str) -> dict[str, set[str]]:
    """All modules of these packages, recursively, with their imports."""
    found = {}
    for package in packages:
        for path in (repository / package).rglob("*.py"):
            parts = path.relative_to(repository).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = imports(path, repository)
    return found


def level(module: str) -> int:
    """The index of a module's package in PACKAGES."""
    if module == "app.__main__":
        module = "app.cli"
    packages = [package for package in PACKAGES if f"{module}.".startswith(f"{package}.")]
    return PACKAGES.index(max(packages, key=len))


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_imports_go_down(repository: Path) -> None:
    """No module imports from a package above its own."""
    graph = modules(repository, "app", "schema", "migrations")
    assert len(graph) > 100  # all of them were found, not only the first level
    upwards = {
        f"{name} imports {used}"
        for name, all_used in graph.items()
        for used in all_used
        if used.partition(".")[0] in {"app", "schema", "migrations"} and level(used) < level(name)
    }

    assert upwards == set()


def test_every_package_says_what_belongs_there(repository: Path) -> None:
    """Package docstrings state the permitted imports and where to start reading; that module exists."""
    packages = [path.parent for path in (repository / "app").rglob("__init__.py")]
    packages += [repository / "schema", repository / "schema" / "engine"]
    assert len(packages) > 8
    for package in packages:
        text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
        start = re.search(r"Start at `([a-z_.]+)`", text)
        assert start, package
        assert re.search("import", text), package
        path = start[1].replace(".", "/")
        assert any((folder / f"{path}.py").exists() for folder in (package, repository)), package


def test_only_the_composition_root_knows_the_schema(repository: Path) -> None:
    """Only the composition root and the command line import the schema."""
    importers = {name for name, used in modules(repository, "app").items() if "schema" in roots(used)}

    assert importers == {"app.main", "app.cli"}


def test_no_sql_in_the_schema(repository: Path) -> None:
    """Resolvers reach the database only through the context, which imports no more than the session's type."""
    for name, used in modules(repository, "schema").items():
        allowed = {"sqlalchemy.ext.asyncio"} if name == "schema.context" else set()
        assert not roots(used - allowed) & {"sqlalchemy", "asyncpg", "alembic"}, name


def test_no_graphql_or_http_in_the_domain(repository: Path) -> None:
    """The domain imports neither GraphQL nor HTTP libraries."""
    for name, used in modules(repository, "app").items():
        if not name.startswith(SPEAKS_HTTP):
            assert not roots(used) & {"strawberry", "graphql", "starlette", "uvicorn"}, name


def test_imports_have_no_cycle(repository: Path) -> None:
    """There are no import cycles."""
    graph = modules(repository, "app", "schema", "migrations")
    waiting = {name: {used for used in names if used in graph and used != name} for name, names in graph.items()}
    while ready := {name for name, names in waiting.items() if not names}:
        waiting = {name: names - ready for name, names in waiting.items() if name not in ready}

    assert waiting == {}


def test_every_table_of_user_data_has_row_level_security() -> None:
    """FORCED, used for row-level security and Citus, has exactly the tables with a user_id."""
    assert {name for name, table in Base.metadata.tables.items() if "user_id" in table.columns} == set(FORCED)


def test_the_environment_is_read_in_one_place(repository: Path) -> None:
    """Only settings read the environment, except for PATH and the metrics directory of workers."""
    for path in (repository / "app").rglob("*.py"):
        if path.stem not in {"settings", "embedded", "metrics"}:
            assert "environ" not in path.read_text(), path.name


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_documented(repository: Path, field: str) -> None:
    """Each setting has a row in docs/settings.md and a description in the code."""
    assert f"| `{variable(field)}` |" in (repository / "docs" / "settings.md").read_text()
    assert Settings.model_fields[field].description


def test_the_table_of_settings_is_true(repository: Path) -> None:
    """The table has exactly the settings, and its literal defaults are the actual ones."""
    table = (repository / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", table, re.MULTILINE))
    defaults = {variable(name): str(field.default) for name, field in Settings.model_fields.items()}

    assert set(rows) == set(defaults)
    for name, shown in rows.items():
        if code := re.fullmatch("`([^`A-Z]+)`", shown):
            assert code[1] == defaults[name], name
        else:
            assert defaults[name] in {"None", "False", "True", "()", ""}, name


def documents(repository: Path) -> list[Path]:
    """All documents for users, operators and developers."""
    first = [repository / name for name in ("README.md", "CHANGELOG.md", "examples/better-auth/README.md")]
    return [*first, *sorted((repository / "docs").rglob("*.md"))]


def text_of(document: Path) -> str:
    """A document without its code blocks, where # starts a comment."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The fragments of a document's headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.+)$", text_of(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short(repository: Path) -> None:
    assert len((repository / "README.md").read_text().splitlines()) < 300


def test_every_document_is_listed(repository: Path) -> None:
    """The README links to every page of docs, and the index of decisions lists them all in order."""
    pages = {f"docs/{path.name}" for path in (repository / "docs").glob("*.md")}
    listed = (repository / "README.md").read_text().partition("## Documentation")[2]
    decisions = sorted((repository / "docs" / "decisions").glob("[0-9]*.md"))
    titles = [path.read_text().partition("\n")[0].removeprefix("# ").partition(". ") for path in decisions]
    index = (repository / "docs" / "decisions" / "README.md").read_text().splitlines()

    assert set(re.findall(r"\]\((docs/[a-z]+\.md)\)", listed)) == pages
    assert [line for line in index if re.match(r"\d+\. ", line)] == [
        f"{number}. [{title}]({path.name})" for path, (number, _, title) in zip(decisions, titles, strict=True)
    ]
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))


def test_links_lead_somewhere(repository: Path) -> None:
    """Every relative link names an existing file, and an existing heading if it has a fragment."""
    broken = []
    for document in documents(repository):
        for link in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
            path, _, fragment = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            if "://" not in link and not (target.exists() and (not fragment or fragment in anchors(target))):
                broken.append(f"{document.relative_to(repository)}: {link}")

    assert broken == []


def test_documented_operations_fit_the_schema(repository: Path) -> None:
    """Every GraphQL operation in a document is valid."""
    blocks = [
        block
        for document in documents(repository)
        for block in re.findall(r"^```graphql\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    ]

    assert len(blocks) > 3
    assert [error for block in blocks for error in validate(GRAPHQL_SCHEMA, parse(block))] == []


def test_the_committed_schema_is_the_schema(repository: Path) -> None:
    """API changes show in the diff: taskql schema > schema/schema.graphql."""
    assert (repository / "schema" / "schema.graphql").read_text() == sdl()


def test_everything_in_the_schema_is_described() -> None:
    """Types, fields, arguments, input fields and enum values all have descriptions."""
    missing = []
    for name, type_ in GRAPHQL_SCHEMA.type_map.items():
        if is_introspection_type(type_) or (isinstance(type_, GraphQLScalarType) and is_specified_scalar_type(type_)):
            continue
        missing += [name] if not type_.description else []
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for key, field in type_.fields.items():
                missing += [f"{name}.{key}"] if not field.description else []
                missing += [f"{name}.{key}({arg})" for arg, value in field.args.items() if not value.description]
        if isinstance(type_, GraphQLInputObjectType):
            missing += [f"{name}.{key}" for key, value in type_.fields.items() if not value.description]
        if isinstance(type_, GraphQLEnumType):
            missing += [f"{name}.{key}" for key, value in type_.values.items() if not value.description]

    assert missing == []


def test_scalars_say_where_they_are_specified() -> None:
    """Every custom scalar has a specifiedBy URL."""
    ours = [type_ for type_ in GRAPHQL_SCHEMA.type_map.values() if isinstance(type_, GraphQLScalarType)]

    assert all(type_.specified_by_url for type_ in ours if not is_specified_scalar_type(type_))


def test_nothing_built_or_local_is_committed(repository: Path) -> None:
    """The repository has no built explorer, no data and no URLs of package registries."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 - git is on the PATH
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")

    assert not [name for name in tracked if name.startswith(("app/web/static/explorer", ".taskql", ".venv"))]
    locks = [name for name in tracked if name.startswith("requirements/") or name.endswith("package-lock.json")]
    assert locks
    for name in locks:
        assert "://" not in (repository / name).read_text(), name


def test_what_a_cluster_leaves_out_exists(repository: Path) -> None:
    """scripts/test-citus names existing tests, so that a renamed test is not run there unnoticed."""
    names = re.findall(r"tests/(test_\w+\.py)(?:::(\w+))?", (repository / "scripts" / "test-citus").read_text())
    tests = repository / "tests"

    assert len(names) > 10
    assert [(file, name) for file, name in names if f"def {name}" not in (tests / file).read_text()] == []
