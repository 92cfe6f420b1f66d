"""Settings of authentication: users, their passwords, rules and tokens."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting

__all__ = ["ACCESS_SETTINGS"]

ACCESS_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="auth",
        kind=types.choice("none", "htpasswd", "token"),
        help="who may pull: none (everybody), or users by password: htpasswd, or token, with both",
        default="none",
    ),
    Setting(
        name="htpasswd_file",
        kind=types.PATH,
        help="the file of users and the bcrypt hashes of their passwords, as htpasswd -B writes it",
    ),
    Setting(
        name="auth_rules",
        kind=types.AUTH_RULES,
        help="the packages that a user may have, as {alice: [shell, git]}; others have all",
        default={},
        default_text="{}",
    ),
    Setting(
        name="token_key",
        kind=types.PATH,
        help="the file of the private key that signs tokens; the same for all replicas",
        default_text="token-key.pem in the state directory, made at the first start",
        requires=("auth", "token"),
    ),
)
