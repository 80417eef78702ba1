"""Connection settings: `LOOM_…` variables over defaults. Nothing else reads the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from runtime.errors import SettingsError
from runtime.signing import Keys


class Settings(BaseSettings):
    """Where a process finds its dependencies. `LOOM_BROKER` sets `broker`, and so on."""

    model_config = SettingsConfigDict(env_prefix="LOOM_", frozen=True, extra="ignore")

    project: Path = Field(default=Path("loom.toml"), description="The project file.")
    data: Path = Field(default=Path("var/loom"), description="The one folder that holds the embedded services' state.")
    broker: str | None = Field(default=None, description="host:port of a Kafka broker; the embedded one when unset.")
    database: SecretStr | None = Field(default=None, description="PostgreSQL URL; the embedded one when unset.")
    registry: str | None = Field(default=None, description="URL of a Confluent-compatible schema registry; the committed catalogue when unset.")
    objects: str | None = Field(default=None, description="URL of the object store, such as s3://bucket/prefix; a folder in `data` when unset.")
    prefix: str = Field(default="", description="Put before every topic's name and consumer group.")
    http_host: str = Field(default="127.0.0.1", description="Address that the HTTP side listens on.")
    http_port: int = Field(default=8400, description="Port of the HTTP side.", ge=0, le=65535)
    api_keys: Path | None = Field(default=None, description="TOML file of the keys that the HTTP side asks for (`loom keys`); without it everybody may ask.")
    engines: str = Field(default="", description="URLs of vLLM servers (`loom worker engine`, or `vllm serve`), with commas between, that answer in the place of an engine in the inference worker's own process.")
    engines_api: Literal["vllm", "lorax"] = Field(default="vllm", description="What these servers are: vllm or lorax.")
    engines_folder: str | None = Field(default=None, description="Where these servers see what this process has in the folder `adapters` of LOOM_DATA; in the same place when unset.")
    engines_key: SecretStr | None = Field(default=None, description="Key that these servers ask for, and that `loom worker engine` asks for.")
    engines_window: int = Field(default=64, description="Requests that each of these servers is given at once; the rest wait here, where adapters take turns. A GPU takes more.", ge=1)
    engine_port: int = Field(default=8500, description="Port of `loom worker engine`, at `http_host`.", ge=0, le=65535)
    engine_url: str | None = Field(default=None, description="What `loom worker engine` is called in LOOM_ENGINES: at a new base epoch those ahead of it in the list change over first. http://HTTP_HOST:ENGINE_PORT when unset.")
    broker_port: int = Field(default=9392, description="Port of the embedded broker.", ge=1, le=65535)
    metrics_port: int | None = Field(default=None, description="Port on which a worker serves Prometheus metrics, at `http_host`; none when unset.", ge=1, le=65535)
    session_timeout_seconds: int = Field(default=10, description="A worker that is silent for so long loses its partitions.", ge=6)
    runs_at_once: int | None = Field(default=None, description="Training runs that a trainer carries out at the same time; one on a GPU and two on a CPU when unset.", ge=1)
    run_processes: int = Field(default=1, description="Processes of the trainer's machine that share one training run, on a GPU each where there are GPUs.", ge=1)
    run_sharded: bool = Field(default=False, description='Where all weights of a base are trained (`[base.cpt] method = "full"`), these processes share them too, with gradients and optimiser, on GPUs (FSDP2).')
    run_backend: Literal["trl", "unsloth", "axolotl"] = Field(default="trl", description="Who trains: trl, unsloth or axolotl.")
    axolotl: str = Field(default="axolotl", description="Axolotl's command, in an environment of its own.")
    trainer_idle_seconds: float | None = Field(default=None, description="A trainer that had nothing to do for so long ends, with exit code 0, as a Kubernetes Job should; it stays when unset.", ge=1)
    report_to: str = Field(default="", description="Experiment trackers that losses go to, such as mlflow,wandb,trackio: as transformers names them, set up by their own variables.")
    signing_key: Path | None = Field(default=None, description="PEM file of an elliptic-curve private key that new versions are signed with (OpenSSF Model Signing).")
    verifying_key: Path | None = Field(default=None, description="PEM file of its public key: servers and trainers take no version that it did not sign.")
    supervisor: int | None = Field(default=None, description="Process id of the `loom up` that a worker belongs to: it stops when that has gone.")
    log_level: str = Field(default="info", description="debug, info, warning or error.")
    teacher_url: str | None = Field(default=None, description="Base URL of an OpenAI-compatible teacher; the offline teacher when unset.")
    teacher_model: str = Field(default="gpt-4o", description="Model name at the teacher.")
    teacher_key: SecretStr | None = Field(default=None, description="API key of the teacher.")

    @field_validator("engines")
    @classmethod
    def _are_urls(cls, engines: str) -> str:
        if wrong := [url for url in engines.replace(",", " ").split() if not re.match(r"^https?://[^/\s]+/?$", url)]:
            raise ValueError(f"{wrong[0]!r} is no URL such as http://host:8500")
        return engines

    @property
    def connection_file(self) -> Path:
        """Where a running stack says how it is reached."""
        return self.data / "connection.json"

    @property
    def keys(self) -> Keys:
        """What versions are signed with, and must be signed by. Raises SettingsError where a key can't be used."""
        keys = Keys(self.signing_key, self.verifying_key)
        keys.check()
        return keys

    @property
    def teacher_secret(self) -> str:
        """The teacher's API key in plain; empty where none is set."""
        return self.teacher_key.get_secret_value() if self.teacher_key else ""

    @property
    def engine_urls(self) -> tuple[str, ...]:
        """The servers that answer, in their order."""
        return tuple(url.rstrip("/") for url in self.engines.replace(",", " ").split())

    @property
    def engines_secret(self) -> str | None:
        """The key of these servers in plain."""
        return (self.engines_key.get_secret_value() or None) if self.engines_key else None

    @property
    def trackers(self) -> tuple[str, ...]:
        """The experiment trackers by name."""
        return tuple(self.report_to.replace(",", " ").split())

    @property
    def objects_url(self) -> str:
        """The object store's URL with its default filled in."""
        return self.objects or (self.data.resolve() / "objects").as_uri()


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, `overrides` first; `None` overrides nothing.

    Raises:
        SettingsError: names every variable that is wrong.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(f"LOOM_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"settings: {faults}") from error
