"""Models by hub id, fetched through `huggingface_hub` into its cache: safetensors before pickles."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_session, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llavakit.core.errors import CheckpointError

ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")  # organisation/model, perhaps with a revision
SETTINGS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
SAFE = ("model*.safetensors", "adapter_model.safetensors", "connector.safetensors")
# Trained beside an adapter or in a first stage, and published as pickles only.
BESIDE = ("mm_projector.bin", "non_lora_trainables.bin")
PICKLES = ("pytorch_model*.bin", "adapter_model.bin")
PATIENCE = 5.0  # seconds for a connection
FOLDERS = ("*/*",)  # other programs' forms of the model


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, `organisation/model` or `organisation/model@revision`."""
    return ID.fullmatch(name) is not None


def hub_id_of(folder: Path) -> str | None:
    """`organisation/model@commit` for a directory in the hub's cache, None for any other."""
    place, home = folder.parent, folder.parent.parent.name
    if place.name != "snapshots" or not home.startswith("models--"):
        return None
    return "/".join(home.removeprefix("models--").split("--", 1)) + f"@{folder.name}"


def is_reachable() -> bool:
    """Whether the hub can be reached, asked once: the libraries knock again and again, for most of a minute."""
    return not constants.is_offline_mode() and _accepts_connections(constants.ENDPOINT)


@cache
def _accepts_connections(endpoint: str) -> bool:
    try:
        get_session().head(endpoint, timeout=PATIENCE)
    except (httpx2.ConnectError, httpx2.ConnectTimeout):
        return False
    except httpx2.HTTPError:  # it is there; what it says or how slowly is for those who ask for something
        return True
    return True


def locate(path: str | Path, *, weights: bool = True) -> Path:
    """A directory on this machine, or the one in the cache that a hub id stands for. Raises CheckpointError."""
    if Path(path).is_dir():
        return Path(path)
    if not is_hub_id(str(path)):
        raise CheckpointError(f"{path} is neither a directory nor a hub id")
    return fetch(str(path), weights=weights)


def fetch(name: str, *, weights: bool = True) -> Path:
    """The directory in the cache of a model on the hub: its settings and tokenizer, with `weights` these too.

    Without a network the cache serves what it has. What cannot be had is one line.
    """
    folder = _snapshot(name, name, SETTINGS)
    if not weights:
        return folder
    fixed = f"{name.partition('@')[0]}@{folder.name}"  # the same commit, whatever happens meanwhile
    _snapshot(name, fixed, (*SAFE, *BESIDE))
    if not any(found for pattern in SAFE for found in folder.glob(pattern)):
        _snapshot(name, fixed, PICKLES)
    return folder


def _snapshot(name: str, at: str, patterns: Sequence[str]) -> Path:
    repo, _, revision = at.partition("@")
    try:
        found = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=list(patterns),
            ignore_patterns=list(FOLDERS),
            local_files_only=not is_reachable(),
        )
    except GatedRepoError:
        what = (
            f"is gated: accept its terms at {constants.ENDPOINT}/{repo}, then log in with `hf auth login` "
            "(or set HF_TOKEN)"
        )
    except RepositoryNotFoundError:
        what = (
            "does not exist here, nor does the hub show such a model; a private one needs `hf auth login` "
            "(or HF_TOKEN)"
        )
    except RevisionNotFoundError:
        what = f"has no revision {revision!r} on the hub"
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, IncompleteSnapshotError):
        what = (
            "does not exist here, is not complete in the hub's cache, and the hub cannot be reached: "
            f"download it where there is a network, with `hf download {repo}`"
        )
    except HFValidationError as error:
        what = f"is no directory and no hub id: {' '.join(str(error).split())}"
    except OSError as error:  # the network, or the disk
        what = f"could not be fetched: {str(error).splitlines()[0]}"
    else:
        return Path(found)
    raise CheckpointError(f"{name} {what}")
