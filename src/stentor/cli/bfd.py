"""``stentor bfd``."""

from stentor.bgp.bfd.command import command as bfd

__all__ = ["bfd"]
