"""What is deployed is valid: the image by hadolint, the services by Docker Compose where it is at hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from loom.processes import WORKERS
from runtime.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_the_image_is_clean_to_hadolint() -> None:
    linted = subprocess.run([Path(sys.executable).parent / "hadolint", ROOT / "deploy/images/Dockerfile"], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_profile_runs_every_worker_once(profile: str) -> None:
    commands = [service["command"] for service in COMPOSE["services"].values() if profile in service["profiles"] and "command" in service]
    assert sorted(command[1] for command in commands if command[0] == "worker") == sorted(WORKERS)


def test_the_environment_names_settings_that_there_are() -> None:
    named = {name for service in COMPOSE["services"].values() for name in service["environment"] if name.startswith("LOOM_")}
    assert {name.removeprefix("LOOM_").lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_docker_compose_reads_it(profile: str) -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("Docker Compose is not installed")
    read = subprocess.run(["docker", "compose", "--profile", profile, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")
