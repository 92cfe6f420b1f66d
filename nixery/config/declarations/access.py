"""Settings of authentication: users, their passwords, rules and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import frozen

from nixery.config import types
from nixery.config.setting import COMPUTED, setting
from nixery.image.patterns import PackagePatterns

__all__ = ["AccessConfig"]


@frozen(kw_only=True)
class AccessConfig:
    """Settings of authentication: users, their passwords, rules and tokens."""

    auth: Literal["none", "htpasswd", "token"] = setting(
        types.choice("none", "htpasswd", "token"),
        "how users log in: none (anyone may pull), htpasswd, or token (Docker's tokens)",
        default="none",
    )
    htpasswd_file: Path | None = setting(
        types.PATH,
        "file of users and bcrypt hashes of their passwords, as htpasswd -B writes it",
    )
    auth_rules: Mapping[str, PackagePatterns] = setting(
        types.AUTH_RULES,
        "packages that a user may pull, as {alice: [shell, git]}; users without rules may pull all",
        default={},
    )
    token_key: Path = setting(
        types.PATH,
        "private key file that signs tokens; the same for all replicas",
        default=COMPUTED,
        default_text="token-key.pem in the state directory, made at the first start",
        requires=("auth", "token"),
    )
