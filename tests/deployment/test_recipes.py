"""The recipes for systemd, Kubernetes, Prometheus and Grafana in deploy. scripts/test-recipes runs these tests."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from conftest import SECRET, Server, Serving, run, serving
from patience import PATIENCE_SECONDS

from app.cli import GRACE_SECONDS
from app.cli import main as command_line
from app.settings import Settings, variable

TOOLS = Path(os.environ["TEST_DEPLOYMENT"])
SETTINGS = {variable(name): field for name, field in Settings.model_fields.items()}
# systemd's estimate of what a service that was taken over could do: 0 nothing, 10 everything.
MOST_EXPOSURE = 1.5


@pytest.fixture
def units(repository: Path, tmp_path: Path) -> Path:
    """A copy of the units, with a program that exists."""
    folder = shutil.copytree(repository / "deploy" / "systemd", tmp_path / "units")
    for unit in folder.glob("*.service"):
        text = unit.read_text()
        assert "/srv/taskql/.venv/bin/taskql" in text
        unit.write_text(text.replace("/srv/taskql/.venv/bin/taskql", str(Path(sys.executable).parent / "taskql")))
    return folder


def test_systemd_accepts_the_units(units: Path) -> None:
    """All settings are known to systemd."""
    names = sorted(path for path in units.iterdir() if path.is_file())
    verified = run(units, "systemd-analyze", "verify", "--man=no", *names, SYSTEMD_UNIT_PATH=f"{units}:")

    assert len(names) == 4
    assert verified == ""


@pytest.mark.parametrize("name", ["taskql-serve", "taskql-migrate", "taskql-purge"])
def test_services_are_hardened(units: Path, name: str) -> None:
    said = run(
        units,
        *("systemd-analyze", "security", "--offline=true", "--no-pager", units / f"{name}.service"),
        SYSTEMD_UNIT_PATH=f"{units}:",
    )
    (exposure,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", said)

    assert float(exposure) <= MOST_EXPOSURE


def test_services_run_commands_that_exist(units: Path) -> None:
    """And they have more time to stop than the server takes."""
    for unit in units.glob("*.service"):
        (command,) = re.findall(r"^ExecStart=\S+/taskql (\w+)", unit.read_text(), re.MULTILINE)
        assert command in command_line.commands
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)", (units / "taskql-serve.service").read_text(), re.MULTILINE)
    assert int(seconds) > GRACE_SECONDS + float(SETTINGS["DRAIN_SECONDS"].default)


@pytest.fixture(params=["migrate", "serve"])
def manifests(request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> Path:
    """The objects that kustomize makes."""
    made = tmp_path / f"{request.param}.yaml"
    made.write_text(run(repository, "kubectl", "kustomize", repository / "deploy" / "kubernetes" / request.param))
    return made


def objects(manifests: Path) -> list[dict[str, Any]]:
    return [thing for thing in yaml.safe_load_all(manifests.read_text()) if thing]


def pods(thing: Any) -> Iterator[dict[str, Any]]:
    """The specifications of pods within an object."""
    if isinstance(thing, dict):
        if "containers" in thing:
            yield thing
        for part in thing.values():
            yield from pods(part)


def test_kubernetes_accepts_the_objects(manifests: Path) -> None:
    """Every field is one of Kubernetes' schemas."""
    said = run(TOOLS, TOOLS / "bin" / "kubernetes-validate", "--strict", manifests)

    assert said.count("passed for resource") == len(objects(manifests)) > 0


def test_pods_are_confined(manifests: Path) -> None:
    """No pod runs as root, writes to its image, has capabilities, Kubernetes' token or unlimited memory."""
    found = [pod for thing in objects(manifests) for pod in pods(thing)]

    assert found
    for pod in found:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            confined = container["securityContext"]
            assert (confined["readOnlyRootFilesystem"], confined["allowPrivilegeEscalation"]) == (True, False)
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["image"] == "registry.example.com/taskql:0.1.0"
            assert container.get("args", ["serve"])[0] in command_line.commands
            assert {entry["name"] for entry in container.get("env", ())} <= set(SETTINGS)


def test_only_migrations_get_the_url_of_the_owner(manifests: Path) -> None:
    mentions = "taskql-owner" in manifests.read_text()

    assert mentions == (manifests.stem == "migrate")


def test_what_the_servers_have(repository: Path, tmp_path: Path) -> None:
    """All parts are there, they select the same pods, and pods have time to stop."""
    made = tmp_path / "serve.yaml"
    made.write_text(run(repository, "kubectl", "kustomize", repository / "deploy" / "kubernetes" / "serve"))
    found = {thing["kind"]: thing["spec"] for thing in objects(made)}
    pod = found["Deployment"]["template"]
    variables = {entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"]}

    assert set(found) == {
        *("Deployment", "Service", "Ingress", "HorizontalPodAutoscaler", "PodDisruptionBudget"),
        *("NetworkPolicy", "CronJob"),
    }
    labels = pod["metadata"]["labels"].items()
    for selector in (
        found["Service"]["selector"],
        found["PodDisruptionBudget"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    assert pod["spec"]["terminationGracePeriodSeconds"] > GRACE_SECONDS + float(variables["DRAIN_SECONDS"])
    paths = [path["path"] for rule in found["Ingress"]["rules"] for path in rule["http"]["paths"]]
    assert paths == ["/graphql", "/explorer"]


@pytest.fixture(scope="module")
def measured(server: Server, settings: Settings) -> Iterator[Serving]:
    """A server with metrics."""
    del settings  # migrates the database
    environment = {"DATABASE_URL": server.app_url, "AUTH_SECRET": SECRET, "METRICS_PORT": "0"}
    with serving(**environment) as served:
        served.ask("{ viewer { id } }", token="none")
        yield served


@pytest.fixture(scope="module")
def samples(measured: Serving) -> set[str]:
    """The names of all series that the server exposes."""
    text = httpx.get(measured.metrics, timeout=PATIENCE_SECONDS).text
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line and not line.startswith("#")}


def series(text: str) -> set[str]:
    """The names of TaskQL's and Python's metrics in queries."""
    return set(re.findall(r"\b((?:taskql|process|python)_[a-z_]+)", text))


def queries(repository: Path) -> list[str]:
    """The queries of the dashboard, with values for Grafana's variables."""
    dashboard = json.loads((repository / "deploy" / "grafana" / "taskql.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in found]


def test_the_dashboard_asks_for_what_there_is(repository: Path, samples: set[str], tmp_path: Path) -> None:
    """Its queries are valid, name only existing metrics, and show all of TaskQL's."""
    asked = series("\n".join(queries(repository)))
    rules = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(queries(repository))]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    assert f"{len(rules)} rules found" in run(tmp_path, "promtool", "check", "rules", "rules.yml")
    assert asked <= samples
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in samples if name.startswith("taskql_")}
    assert families == {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked if name.startswith("taskql_")}


def test_the_rules(repository: Path, samples: set[str]) -> None:
    """Prometheus accepts its configuration; the rules name existing metrics, and fire when they should."""
    folder = repository / "deploy" / "prometheus"
    rules = (folder / "rules.yml").read_text()

    assert "valid prometheus config" in run(folder, "promtool", "check", "config", "prometheus.yml")
    assert "SUCCESS" in run(folder, "promtool", "test", "rules", "rules-test.yml")
    assert series(rules) <= samples


def test_the_documented_rules(repository: Path) -> None:
    """docs/monitoring.md explains every alert."""
    text = (repository / "docs" / "monitoring.md").read_text()
    alerts = re.findall(r"alert: (\w+)", (repository / "deploy" / "prometheus" / "rules.yml").read_text())

    assert set(re.findall(r"^\| `(TaskQL\w+)`", text, re.MULTILINE)) == set(alerts)
