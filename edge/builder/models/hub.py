"""Downloads of checkpoints from the Hugging Face Hub, without pickles and without code."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from edge.builder.models import folders
from edge.errors import CheckpointError, require
from edge.files.redaction import redact

__all__ = ["fetch"]


def fetch(name: str) -> Path:
    """Download the needed files of a hub id, or find them in the cache; returns their folder.

    Raises `CheckpointError` when the id is gated, does not exist or cannot be reached, and when its
    weights are pickled.
    """
    near = _near(name)
    hint = f"did you mean {near}?" if near else "check the path"
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise CheckpointError(f"there is no checkpoint at {redact(name)}", hint)
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    try:
        folder = Path(
            hub.snapshot_download(name, allow_patterns=folders.FETCHED, ignore_patterns=["*/*"])
        )
    except errors.GatedRepoError as error:
        page = f"{hub.constants.ENDPOINT}/{name}"
        raise CheckpointError(
            f"{name} is gated: its owners must grant you access",
            f"request access at {page}, then: hf auth login",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {name}, and no model of that id on the Hub that you may see",
            hint if near else "check the path or the id (for a private model: hf auth login)",
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"there is no folder {name}, and it is not a valid hub id", hint
        ) from error
    except errors.LocalEntryNotFoundError as error:
        offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled)
        endpoint = f"{hub.constants.ENDPOINT} failed ({_reason(error.__cause__ or error)})"
        why = "HF_HUB_OFFLINE is set" if offline else endpoint
        if near or ("/" in name and Path(name).parent.is_dir()):  # it is more likely a path
            raise CheckpointError(
                f"there is no folder {name} (as a hub id: {why})", hint
            ) from error
        raise CheckpointError(
            f"there is no folder {name}, no complete copy of that id in "
            f"{hub.constants.HF_HUB_CACHE}, and {why}",
            "go online, give the folder of a copy, or set HF_HOME to a cache that has it",
        ) from error
    except Exception as error:  # every other kind of network and disk failure
        raise CheckpointError(
            f"{name} cannot be downloaded from {hub.constants.ENDPOINT} ({_reason(error)})",
            "try again later, or give the folder of a copy",
        ) from error
    if not folders.weights(folder):
        try:
            names = hub.list_repo_files(name)
        except Exception:  # offline, the other files are unknown: the copy just has no weights
            return folder
        folders.check_pickles(name, names)
    return folder


def _near(name: str) -> Path | None:
    """The folder that a path may stand for: one of a similar name, or that of a similar file."""
    path = Path(name)
    beside = {each.name: each.is_dir() for each in path.expanduser().parent.glob("*")}
    found = difflib.get_close_matches(path.name, beside, n=1)
    if not found:
        return None
    return path.with_name(found[0]) if beside[found[0]] else path.parent


def _reason(error: BaseException) -> str:
    """The first line of an error message, without the request id."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r" *\(Request ID[^)]*\)", "", line) or type(error).__name__
