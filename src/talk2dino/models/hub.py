"""Files of a hub repository, from the cache or the network. huggingface_hub reads HF_HOME, HF_HUB_OFFLINE and HF_TOKEN."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from talk2dino.errors import ModelNotFoundError
from talk2dino.models.catalog import ModelSpec

WEIGHTS = "model.safetensors"
WHAT_TO_DO = (
    "Use the embedded model (--model micro) or a local folder (--model FOLDER), or set HF_HOME to a cache that has the "
    "model. Without a network, HF_HUB_OFFLINE=1 skips the attempt to download"
)


def cached_file(
    repository: str, filename: str, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path | None:
    """A repository's file in the local cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, filename, cache_dir=cache_dir, revision=revision)
    return Path(found) if isinstance(found, str) else None


@dataclass(frozen=True)
class HubOptions:
    """Where files of the hub come from: the git revision, another cache folder, and whether to stay offline."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    def file(self, repository: str, filename: str) -> Path:
        """Path of a repository's file, downloaded if it is not cached.

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

        offline = self.local_files_only or is_offline_mode()
        try:
            if not offline and cached_file(repository, filename, self.revision, self.cache_dir) is None:
                # One request without retries: if the hub cannot be reached, this fails at once instead of after a minute.
                HfApi().model_info(repository, revision=self.revision, timeout=10)
            return Path(
                hf_hub_download(
                    repository, filename, revision=self.revision, cache_dir=self.cache_dir,
                    local_files_only=self.local_files_only,
                )
            )  # fmt: skip
        except HFValidationError:
            raise ModelNotFoundError(f"{repository!r} is not a hub id; a hub id looks like owner/name") from None
        except GatedRepoError:
            raise ModelNotFoundError(
                f"the hub repository {repository} is gated: accept its licence there, then set HF_TOKEN to your token"
            ) from None
        except RepositoryNotFoundError:
            raise ModelNotFoundError(
                f"no hub repository {repository}, or it is private and HF_TOKEN gives no access. {WHAT_TO_DO}"
            ) from None
        except RevisionNotFoundError:
            raise ModelNotFoundError(
                f"the hub repository {repository} has no revision {self.revision!r}; see the repository's branches and tags"
            ) from None
        except LocalEntryNotFoundError:
            raise ModelNotFoundError(
                f"{filename} of {repository} is not in the local cache and the hub cannot be reached. {WHAT_TO_DO}"
            ) from None
        except EntryNotFoundError:
            raise ModelNotFoundError(f"the hub repository {repository} has no file {filename}") from None
        except Exception as error:  # whatever the network stack raises
            raise ModelNotFoundError(
                f"{repository} cannot be downloaded: the hub cannot be reached ({type(error).__name__}). {WHAT_TO_DO}"
            ) from None


def is_cached(spec: ModelSpec, cache_dir: str | Path | None = None) -> bool:
    """Whether all files of a catalog model are on this machine."""
    if spec.kind == "embedded":
        return (Path(str(resources.files("talk2dino") / spec.repository)) / WEIGHTS).is_file()
    names = [(spec.repository, WEIGHTS)] + ([(spec.text, WEIGHTS)] if spec.text else [])
    return all(cached_file(repository, name, cache_dir=cache_dir) for repository, name in names)
