"""Versions on a Hugging Face hub, for those who use them elsewhere."""

from __future__ import annotations

import tempfile
from pathlib import Path

from runtime.artifacts import fetch
from runtime.errors import SettingsError
from runtime.objects import Objects
from runtime.tasks.prompt import one_line
from schemas.events import AdapterVersion


async def push(version: AdapterVersion, objects: Objects, repo: str, *, private: bool, endpoint: str | None = None) -> str:
    """Puts the files of `version`, each checked against the registry, into a repository on the hub as one commit with a tag of its engine name; the commit's address.

    The hub and the token are huggingface_hub's own settings (HF_ENDPOINT, HF_TOKEN). A repository that is not there is made.

    Raises:
        SettingsError: the hub can't be reached, or refuses.
        IntegrityError: a file is not what the registry says.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    hub = HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory(prefix="loom-hub-") as folder:
        files = await fetch(version, objects, Path(folder))
        try:
            hub.create_repo(repo, private=private, exist_ok=True)
            commit = hub.upload_folder(repo_id=repo, folder_path=files, commit_message=f"{version.engine_name}: {version.verdict}")
            hub.create_tag(repo, tag=version.engine_name.replace("@", "-v"), revision=commit.oid, exist_ok=True)
        except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
            raise SettingsError(f"{repo} on {hub.endpoint}: {one_line(str(error))} Name it as OWNER/NAME, and set HF_TOKEN to a token that may write there") from error
    return str(commit.commit_url)
