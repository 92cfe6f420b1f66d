"""
Errors of what is attached to images.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import UnusableFile

__all__ = ["SigningKeyUnusable"]


@frozen(kw_only=True)
class SigningKeyUnusable(UnusableFile):
    """A key that signs images, or verifies their signatures, cannot be used."""

    problem = "cannot sign images with the key at {path}"
    advice = "openssl genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-256 makes one"
