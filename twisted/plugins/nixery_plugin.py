"""Registers ``twistd nixery`` with Twisted."""

from twisted.application.service import ServiceMaker

nixery = ServiceMaker(
    "Nixery",
    "nixery.tap",
    "A container registry that builds images on demand, with Nix.",
    "nixery",
)
