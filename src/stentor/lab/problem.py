"""What is wrong with a topology, collected with paths; and the questions that several parts ask of prefixes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from stentor.sys.netlink import IPNetwork

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Problems(list[tuple[str, str]]):
    """(path, message) pairs; a problem that two parts meet is told once."""

    def add(self, path: str, message: str) -> None:
        if (path, message) not in self:
            self.append((path, message))

    def check_label(self, path: str, name: str) -> None:
        """A DNS label, as names of labs, networks and machines are."""
        if not _LABEL.fullmatch(name):
            self.add(path, f"{name!r}: lower case letters, digits and '-', at most 63 characters")

    def prefixes(self, path: str, texts: Sequence[str]) -> list[tuple[str, IPNetwork]]:
        """Those that are prefixes, each with its own path."""
        found = []
        for index, text in enumerate(texts):
            at = f"{path}[{index}]"
            if (prefix := self.prefix(at, text)) is not None:
                found.append((at, prefix))
        return found

    def prefix(self, path: str, text: str) -> IPNetwork | None:
        try:
            return ipaddress.ip_network(text)
        except ValueError as e:
            self.add(path, str(e))
            return None

    def check_overlap(self, path: str, cidr: IPNetwork, used: Iterable[tuple[str, IPNetwork]]) -> None:
        """Against prefixes with their paths; the first that overlaps is named."""
        for where, other in used:
            if _overlap(cidr, other):
                self.add(path, f"{cidr} overlaps {other} of {where}")
                return


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return one.overlaps(other)
    if isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return one.overlaps(other)
    return False
