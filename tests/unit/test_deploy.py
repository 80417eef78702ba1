"""What is deployed is valid: the image by hadolint, the services by Docker Compose where it is at hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from loom.processes import ON_ONE_MACHINE, WORKERS
from runtime.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_the_image_is_clean_to_hadolint() -> None:
    linted = subprocess.run([Path(sys.executable).parent / "hadolint", ROOT / "deploy/images/Dockerfile"], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_profile_runs_every_worker_once(profile: str) -> None:
    commands = [service["command"] for service in COMPOSE["services"].values() if profile in service["profiles"] and "command" in service]
    assert sorted(command[1] for command in commands if command[0] == "worker") == sorted(ON_ONE_MACHINE)


def test_replicas_are_named_as_those_who_ask_them_name_them() -> None:
    replicas = [service for service in COMPOSE["services"].values() if "engines" in service["profiles"]]
    assert [service["command"] for service in replicas] == [["worker", "engine"]] * 2
    assert len({service["environment"]["LOOM_ENGINES"] for service in [*replicas, COMPOSE["services"]["inference"]]}) == 1
    assert COMPOSE["services"]["inference"]["environment"]["LOOM_ENGINES"] == "${LOOM_ENGINES:-}"
    names = [f"http://{name}:8500" for name, service in COMPOSE["services"].items() if service in replicas]
    assert [service["environment"]["LOOM_ENGINE_URL"] for service in replicas] == names


def test_the_environment_names_settings_that_there_are() -> None:
    named = {name for service in COMPOSE["services"].values() for name in service["environment"] if name.startswith("LOOM_")}
    assert {name.removeprefix("LOOM_").lower() for name in named} <= set(Settings.model_fields)


MANIFESTS = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/trainer.yaml").read_text()))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=[manifest["kind"] for manifest in MANIFESTS])
def test_kubernetes_takes_the_trainers_job(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_job_runs_a_worker_that_ends_when_it_is_idle() -> None:
    (container,) = MANIFESTS[-1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "worker"
    assert container["args"][1] in WORKERS
    named = {variable["name"].removeprefix("LOOM_").lower() for variable in container["env"]}
    assert "trainer_idle_seconds" in named <= set(Settings.model_fields)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_docker_compose_reads_it(profile: str) -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("Docker Compose is not installed")
    read = subprocess.run(["docker", "compose", "--profile", profile, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")
