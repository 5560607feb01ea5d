"""TCP passwords, from Secrets of the namespace that the configuration names."""

from __future__ import annotations

import base64
import binascii

import msgspec

from stentor.api.core import Secret
from stentor.state import Column, Table

KEY = "password"


class Password(msgspec.Struct, frozen=True):
    """The key of a Secret, or why it has none. Nothing prints the key."""

    name: str
    text: str = ""
    problem: str = ""

    def __repr__(self) -> str:
        return f"Password({self.name!r})"


def password_row(secret: Secret) -> Password:
    """Of a Secret; one without a usable key is a row with a problem."""
    name, raw = secret.metadata.name, secret.data.get(KEY)
    if raw is None:
        return Password(name, problem=f"has no key {KEY!r}")
    try:
        text = base64.b64decode(raw, validate=True).decode().strip("\n")
    except (binascii.Error, UnicodeDecodeError):
        return Password(name, problem=f"the key {KEY!r} is not text")
    if not 0 < len(text.encode()) <= 80:
        return Password(name, problem=f"the key {KEY!r} has {len(text.encode())} bytes: from 1 to 80")
    return Password(name, text)


def passwords() -> Table[str, Password]:
    """By the Secret's name."""
    return Table(
        "bgp-secrets",
        lambda row: row.name,
        columns=(Column("NAME", lambda row: row.name), Column("PROBLEM", lambda row: row.problem)),
    )
