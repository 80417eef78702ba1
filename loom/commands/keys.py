"""`loom keys`: keys for the HTTP side."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from loom.commands.common import AsJson

NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


def keys(
    name: Annotated[str, typer.Argument(help="Who holds it: small letters, digits, hyphens.")],
    scope: Annotated[list[str] | None, typer.Option("--scope", help="ask, generate, openai, metrics or docs; may be repeated. The first three when unset.")] = None,
    per_minute: Annotated[int, typer.Option("--per-minute", min=1, help="Requests that it may make.")] = 600,
    as_json: AsJson = False,
) -> None:
    """Make a key for the HTTP side.

    And what the file at LOOM_API_KEYS must say of it. The key is shown once; the file has its digest alone.

    Example: loom keys frontend --scope ask >> keys.toml
    """
    from typing import get_args

    from inference.gatekeeper import ScopeName, new_key
    from runtime.errors import SettingsError

    scopes = list(dict.fromkeys(scope or ("ask", "generate", "openai")))
    if not NAME.fullmatch(name):
        raise SettingsError(f"{name!r} is no name for a key: small letters, digits and hyphens, a letter first")
    if strange := next((one for one in scopes if one not in get_args(ScopeName)), None):
        raise SettingsError(f"there is no scope {strange!r}: one of {', '.join(get_args(ScopeName))}")
    key, digest = new_key()
    if as_json:
        typer.echo(json.dumps({"name": name, "key": key, "sha256": digest, "scopes": scopes, "requests_per_minute": per_minute}))
        return
    typer.echo(f"the key, shown once: {key}", err=True)
    typer.echo(f'[keys.{name}]\nsha256 = "{digest}"\nscopes = {json.dumps(scopes)}\nrequests_per_minute = {per_minute}\n')
