"""Settings of the directories, and of where images are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import frozen

from nixery.config import types
from nixery.config.setting import COMPUTED, setting

__all__ = ["StorageConfig"]


@frozen(kw_only=True)
class StorageConfig:
    """Settings of the directories, and of where images are stored."""

    state_directory: Path = setting(
        types.PATH,
        "directory for what must survive a restart: garbage collection roots, and stored"
        " images by default",
        default=COMPUTED,
        default_text="$STATE_DIRECTORY, else $XDG_STATE_HOME/nixery, else ~/.local/state/nixery",
    )
    cache_directory: Path = setting(
        types.PATH,
        "directory for what may be lost: the home and the caches of the Nix commands",
        default=COMPUTED,
        default_text="$CACHE_DIRECTORY, else $XDG_CACHE_HOME/nixery, else ~/.cache/nixery",
    )
    storage_backend: Literal["filesystem", "gcs"] = setting(
        types.choice("filesystem", "gcs"),
        "storage of images: filesystem or gcs (Google Cloud Storage)",
        default="filesystem",
    )
    storage_path: Path = setting(
        types.PATH,
        "directory of the filesystem storage",
        default=COMPUTED,
        default_text="storage in the state directory",
        variable="STORAGE_PATH",
        requires=("storage_backend", "filesystem"),
    )
