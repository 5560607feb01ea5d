"""What can be wrong with an image."""

from __future__ import annotations


class UnknownImage(Exception):
    """No such image in the catalogue; the message says how to map it."""


class BadImageFile(Exception):
    """A file of images that cannot be used; names file, image and field."""
