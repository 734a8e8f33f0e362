"""Files of a hub repository, from the cache or the network, with errors that say what to do.

HF_HOME, HF_HUB_OFFLINE and HF_TOKEN are honoured by huggingface_hub itself.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from talk2dino.errors import ModelNotFoundError
from talk2dino.models.catalog import ModelSpec

WEIGHTS = "model.safetensors"
WHAT_TO_DO = (
    "Use the embedded model (micro), a local folder, or a cache that has it (set HF_HOME to the cache's folder); "
    "HF_HUB_OFFLINE=1 makes this immediate where there is no network"
)


def cached_file(
    repository: str, filename: str, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path | None:
    """The file in the local cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, filename, cache_dir=cache_dir, revision=revision)
    return Path(found) if isinstance(found, str) else None


def hub_file(
    repository: str,
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Path of a repository's file, downloaded when it is not cached.

    Raises:
        ModelNotFoundError: no such repository, revision or file; licence not accepted; hub unreachable.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    offline = local_files_only or is_offline_mode()
    try:
        if not offline and cached_file(repository, filename, revision, cache_dir) is None:
            # One question without retries: where the hub cannot be reached, this says so at once, not after a minute.
            HfApi().model_info(repository, revision=revision, timeout=10)
        return Path(
            hf_hub_download(
                repository, filename, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
            )
        )
    except HFValidationError:
        raise ModelNotFoundError(f"{repository!r} is not a hub id; a hub id looks like owner/name") from None
    except GatedRepoError:
        raise ModelNotFoundError(
            f"the hub repository {repository} is gated: accept its licence there, then set HF_TOKEN to your token"
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"no hub repository {repository}, or it is private and HF_TOKEN does not open it. {WHAT_TO_DO}"
        ) from None
    except RevisionNotFoundError:
        raise ModelNotFoundError(f"the hub repository {repository} has no revision {revision!r}") from None
    except LocalEntryNotFoundError:
        raise ModelNotFoundError(
            f"{filename} of {repository} is not in the local cache and the hub cannot be reached. {WHAT_TO_DO}"
        ) from None
    except EntryNotFoundError:
        raise ModelNotFoundError(f"the hub repository {repository} has no file {filename}") from None
    except Exception as error:  # whatever the network stack raises
        raise ModelNotFoundError(
            f"the hub cannot be reached for {repository} ({type(error).__name__}). {WHAT_TO_DO}"
        ) from None


def is_cached(spec: ModelSpec, cache_dir: str | Path | None = None) -> bool:
    """Whether a catalog model is on this machine."""
    if spec.kind == "embedded":
        return (Path(str(resources.files("talk2dino") / spec.repository)) / WEIGHTS).is_file()
    names = [(spec.repository, WEIGHTS)] + ([(spec.text, WEIGHTS)] if spec.text else [])
    return all(cached_file(repository, name, cache_dir=cache_dir) for repository, name in names)
