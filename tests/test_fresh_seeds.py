"""scripts/oracle generates different examples for each seed, and the same ones for the same seed."""

import re
import subprocess
from pathlib import Path

import pytest

PROFILE = """
import hypothesis
hypothesis.settings.register_profile("fresh", database=None, derandomize=False, max_examples=5, phases=["generate"])
"""
NUMBERS = """
from hypothesis import given, strategies
from pathlib import Path

@given(strategies.binary(min_size=20, max_size=20))
def test_numbers(drawn):
    with Path(__file__).with_name("drawn").open("a") as file:
        file.write(drawn.hex() + "\\n")
    {check}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small tests in place of the oracle: five examples per round, of which the first is always the simplest."""
    (tmp_path / "conftest.py").write_text(PROFILE.replace('["generate"]', "[hypothesis.Phase.generate]"))
    (tmp_path / "test_passes.py").write_text(NUMBERS.format(check=""))
    (tmp_path / "test_fails.py").write_text(NUMBERS.format(check="assert not any(drawn)"))
    return tmp_path


def oracle(repository: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [repository / "scripts" / "oracle", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our script


def drawn(folder: Path) -> list[str]:
    return (folder / "drawn").read_text().split()


def test_each_round_has_other_examples(repository: Path, folder: Path) -> None:
    """The requested number of rounds runs, each with a printed seed."""
    done = oracle(repository, "--rounds", "2", folder / "test_passes.py")

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(set(re.findall(r"seed (\d+)", done.stderr))) == 2
    assert (len(drawn(folder)), len(set(drawn(folder)))) == (10, 9)


def test_a_time_limit(repository: Path, folder: Path) -> None:
    """When the time is over the current round is completed."""
    assert oracle(repository, "--minutes", "0", folder / "test_passes.py").returncode == 0
    assert len(drawn(folder)) == 5


def test_a_failure_is_reproducible(repository: Path, folder: Path) -> None:
    """The printed command reproduces the failure."""
    failed = oracle(repository, "--rounds", "2", folder / "test_fails.py")
    assert failed.returncode == 1
    seed = re.search(r"scripts/oracle --seed (\d+) ", failed.stderr)
    assert seed, failed.stderr
    first = drawn(folder)
    (folder / "drawn").unlink()

    again = oracle(repository, "--seed", seed[1], folder / "test_fails.py")

    assert again.returncode == 1
    assert drawn(folder) == first


@pytest.mark.parametrize("wrong", [["--hours", "1"], ["--rounds"], ["--rounds", "many"], ["--seed", ""]])
def test_wrong_arguments(repository: Path, wrong: list[str]) -> None:
    """Invalid arguments print the usage before anything runs."""
    refused = oracle(repository, *wrong)

    assert refused.returncode == 2
    assert "usage: scripts/oracle" in refused.stderr
