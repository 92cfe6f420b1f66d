"""Settings of the directories, and of where images are stored."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting

__all__ = ["STORAGE_SETTINGS"]

STORAGE_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="state_directory",
        kind=types.PATH,
        help="what must survive a restart: garbage collection roots, and stored images by default",
        default_text="$STATE_DIRECTORY, else $XDG_STATE_HOME/nixery, else ~/.local/state/nixery",
    ),
    Setting(
        name="cache_directory",
        kind=types.PATH,
        help="what may be lost: the home and the caches of the Nix commands",
        default_text="$CACHE_DIRECTORY, else $XDG_CACHE_HOME/nixery, else ~/.cache/nixery",
    ),
    Setting(
        name="storage_backend",
        kind=types.choice("filesystem", "gcs"),
        help="where images are stored: filesystem or gcs (Google Cloud Storage)",
        default="filesystem",
        variable="NIXERY_STORAGE_BACKEND",
    ),
    Setting(
        name="storage_path",
        kind=types.PATH,
        help="the directory of the filesystem storage",
        default_text="storage in the state directory",
        variable="STORAGE_PATH",
        requires=("storage_backend", "filesystem"),
    ),
)
