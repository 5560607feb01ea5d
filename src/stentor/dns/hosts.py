"""Names and addresses of a hosts(5) file, answered where the cluster's zone has nothing to say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from stentor.dns.zone import ELSEWHERE, Answer, Kind, Outcome, Record, address_record, reverse
from stentor.net.address import Addr


class Hosts:
    """Answers from the text of a file. Lines that cannot be read are left out."""

    def __init__(self, text: str = "") -> None:
        self._addresses: dict[str, list[Addr]] = defaultdict(list)
        self._names: dict[Addr, list[str]] = defaultdict(list)
        for addr, name in _entries(text.splitlines()):
            self._addresses[name.lower()].append(addr)
            self._names[addr].append(name)

    def answer(self, name: str, kind: Kind | None) -> Answer:
        """A, AAAA and PTR; `name` is absolute without the last dot, in any case."""
        addr = reverse(tuple(name.lower().split(".")))
        if addr is not None:
            found = [Record(name, Kind.PTR, f"{each}.") for each in self._names.get(addr, ())]
        else:
            found = [address_record(name, each) for each in self._addresses.get(name.lower(), ())]
        if not found:
            return ELSEWHERE
        return Answer(Outcome.ANSWER, tuple(each for each in found if each.kind is kind))


def _entries(lines: Iterable[str]) -> Iterable[tuple[Addr, str]]:
    for words in (line.partition("#")[0].split() for line in lines):
        try:
            addr = Addr.parse(words[0]) if words else None
        except ValueError:
            continue
        if addr is not None:
            yield from ((addr, name.rstrip(".")) for name in words[1:])
