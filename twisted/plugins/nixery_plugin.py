"""Registers ``twistd nixery`` with Twisted."""

from twisted.application.service import ServiceMaker

nixery = ServiceMaker(
    "Nixery",
    "nixery.tap",
    "A container registry that builds the images it is asked for, with Nix.",
    "nixery",
)
