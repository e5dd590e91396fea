"""Checkpoints of the Hugging Face Hub: downloaded without pickles and without code, or why not."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from edge.builder.models import folders
from edge.errors import CheckpointError, require

__all__ = ["fetch"]


def fetch(name: str) -> Path:
    """Download what is read of a hub id, or find it in the cache; returns its folder.

    Raises `CheckpointError` for an id that is gated, absent, or out of reach, and for one whose
    weights are pickled.
    """
    near = _near(name)
    meant = f"did you mean {near}?" if near else "check the path"
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise CheckpointError(f"there is no checkpoint at {name}", meant)
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    try:
        folder = Path(
            hub.snapshot_download(name, allow_patterns=folders.FETCHED, ignore_patterns=["*/*"])
        )
    except errors.GatedRepoError as error:
        page = f"{hub.constants.ENDPOINT}/{name}"
        raise CheckpointError(
            f"{name} is gated: its owners let in whom they choose",
            f"ask for access at {page}, then: hf auth login",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {name}, and no model of that id that the Hub shows you",
            meant if near else "check the path or the id (a private one: hf auth login)",
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"there is no folder {name}, and it cannot be a hub id", meant
        ) from error
    except errors.LocalEntryNotFoundError as error:
        offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled)
        endpoint = f"{hub.constants.ENDPOINT} gives none ({_reason(error.__cause__ or error)})"
        why = "HF_HUB_OFFLINE is set" if offline else endpoint
        if near or ("/" in name and Path(name).parent.is_dir()):  # rather a path
            raise CheckpointError(
                f"there is no folder {name} (as a hub id: {why})", meant
            ) from error
        raise CheckpointError(
            f"there is no folder {name}, no whole copy of that id in "
            f"{hub.constants.HF_HUB_CACHE}, and {why}",
            "go online, give the folder of a copy, or set HF_HOME to one that has it",
        ) from error
    except Exception as error:  # every other kind of network and disk failure
        raise CheckpointError(
            f"{name} cannot be fetched from {hub.constants.ENDPOINT} ({_reason(error)})",
            "try again later, or give the folder of a copy",
        ) from error
    if not folders.weights(folder):
        try:
            names = hub.list_repo_files(name)
        except Exception:  # a copy, with nobody to ask what else there is: it has no weights
            return folder
        folders.check_pickles(name, names)
    return folder


def _near(name: str) -> Path | None:
    """The folder that is called most like the one that a path names, where it was looked for."""
    path = Path(name)
    beside = (each.name for each in path.expanduser().parent.glob("*") if each.is_dir())
    found = difflib.get_close_matches(path.name, beside, n=1)
    return path.with_name(found[0]) if found else None


def _reason(error: BaseException) -> str:
    """The first line of what went wrong, without the number of the request."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r" *\(Request ID[^)]*\)", "", line) or type(error).__name__
