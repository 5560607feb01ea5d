"""The cluster's zone: answers to questions, by Kubernetes' DNS specification 1.1.0. Pure: reads tables, knows no messages.

<service>.<namespace>.svc.<domain>                        A, AAAA, CNAME (ExternalName); headless: one address an endpoint
_<port>._<protocol>.<service>.<namespace>.svc.<domain>    SRV
<hostname>.<service>.<namespace>.svc.<domain>             A, AAAA of one endpoint
<a-b-c-d>.<namespace>.pod.<domain>                        A, AAAA spelled by the name
<d.c.b.a>.in-addr.arpa, <…>.ip6.arpa                      PTR
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

import msgspec

from stentor.api.meta import ObjectKey
from stentor.dns.row import NamedEndpoint, NamedService, NamedSlice, Namespace, dashed, undashed
from stentor.net.address import Addr
from stentor.state import Table

VERSION: Final = "1.1.0"
TTL_S: Final = 5
"""As CoreDNS: short, because endpoints move."""


class Kind(Enum):
    """Types of records that the zone has."""

    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"
    PTR = "PTR"
    SRV = "SRV"
    TXT = "TXT"
    NS = "NS"
    SOA = "SOA"


class Record(msgspec.Struct, frozen=True):
    """`data` is the record's text form as in a zone file; names are absolute without the last dot."""

    name: str
    kind: Kind
    data: str


class Outcome(Enum):
    """ANSWER may be without records of the type asked for; ELSEWHERE is not this zone's to answer."""

    ANSWER = "answer"
    NO_SUCH_NAME = "no such name"
    ELSEWHERE = "elsewhere"


class Answer(msgspec.Struct, frozen=True):
    """`alias` is a name outside the zone at which the answer goes on."""

    outcome: Outcome
    records: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    alias: str = ""


ELSEWHERE: Final = Answer(Outcome.ELSEWHERE)
NO_SUCH_NAME: Final = Answer(Outcome.NO_SUCH_NAME)
EMPTY: Final = Answer(Outcome.ANSWER)
_ADDRESSES: Final = {Kind.A: 4, Kind.AAAA: 6}
_ALIASES_MOST: Final = 8


class Zone:
    """Answers from the tables as they are at the moment."""

    def __init__(
        self,
        domain: str,
        services: Table[ObjectKey, NamedService],
        slices: Table[ObjectKey, NamedSlice],
        namespaces: Table[str, Namespace],
    ) -> None:
        self.domain = domain.lower().strip(".")
        self._labels = tuple(self.domain.split("."))
        self._services, self._slices, self._namespaces = services, slices, namespaces

    @property
    def is_synced(self) -> bool:
        return all(table.is_synced for table in (self._services, self._slices, self._namespaces))

    def answer(self, name: str, kind: Kind | None) -> Answer:
        """`name` is absolute without the last dot, in any case; `kind` None asks for a type that the zone never has."""
        labels = tuple(name.lower().split(".")) if name else ()
        addr = reverse(labels)
        if addr is not None:
            return self._pointers(name, addr, kind)
        size = len(self._labels)
        if labels[-size:] != self._labels:
            return ELSEWHERE
        found = self._records(name, labels[:-size])
        if found is None:
            return NO_SUCH_NAME
        return self._follow(found, kind)

    def authority(self) -> Record:
        """SOA for answers without records."""
        return Record(
            self.domain, Kind.SOA, f"ns.dns.{self.domain}. hostmaster.{self.domain}. 1 7200 1800 86400 {TTL_S}"
        )

    # ---- names

    def _records(self, name: str, labels: Sequence[str]) -> list[Record] | None:
        """Every record of a name below the domain; None when there is no such name."""
        match labels:
            case ():
                return [self.authority(), Record(name, Kind.NS, f"ns.dns.{self.domain}.")]
            case ("dns-version",):
                return [Record(name, Kind.TXT, f'"{VERSION}"')]
            case ("ns", "dns"):
                return self._of_dns_service(name)
            case ("svc",) | ("pod",) | ("dns",):
                return []
            case (namespace, "svc" | "pod"):
                return [] if namespace in self._namespaces else None
            case (label, namespace, "pod"):
                return self._pod(name, label, namespace)
            case (*below, service, namespace, "svc"):
                return self._service(name, below, ObjectKey(namespace, service))
        return None

    def _of_dns_service(self, name: str) -> list[Record]:
        own = self._services.get(ObjectKey("kube-system", "kube-dns"))
        return [address_record(name, addr) for addr in own.addresses] if own else []

    def _pod(self, name: str, label: str, namespace: str) -> list[Record] | None:
        addr = undashed(label)
        if addr is None or namespace not in self._namespaces:
            return None
        return [address_record(name, addr)]

    def _service(self, name: str, below: Sequence[str], key: ObjectKey) -> list[Record] | None:
        service = self._services.get(key)
        if service is None or (service.is_headless and not any(self._endpoints(service))):
            return None  # 2.4.1: without a ready endpoint a headless service is as if it were not there
        if not below:
            return self._of_service(name, service)
        if service.target:
            return None
        if len(below) == 1 and not below[0].startswith("_"):
            return self._of_endpoint(name, below[0], service)
        return self._of_port(name, below, service)

    def _of_service(self, name: str, service: NamedService) -> list[Record]:
        if service.target:
            return [Record(name, Kind.CNAME, f"{service.target}.")]
        if not service.is_headless:
            return [address_record(name, addr) for addr in service.addresses]
        return [address_record(name, addr) for addr in dict.fromkeys(each.addr for each in self._endpoints(service))]

    def _of_endpoint(self, name: str, label: str, service: NamedService) -> list[Record] | None:
        found = [address_record(name, each.addr) for each in self._endpoints(service) if each.label == label]
        return found or None

    def _of_port(self, name: str, below: Sequence[str], service: NamedService) -> list[Record] | None:
        """SRV records; `_tcp` alone exists without records."""
        if len(below) == 1:
            return [] if any(f"_{port.protocol}" == below[0] for port in service.ports) else None
        if len(below) != 2 or not all(label.startswith("_") for label in below):
            return None
        port_name, protocol = below[0][1:], below[1][1:]
        base = self._name(service.key)
        if not service.is_headless:
            numbers = [port.number for port in service.ports if (port.name, port.protocol) == (port_name, protocol)]
            return [Record(name, Kind.SRV, f"0 100 {number} {base}.") for number in numbers] or None
        targets = dict.fromkeys(
            (each.label, port.number)
            for found in self._slices.by("service", service.key)
            for port in found.ports
            if (port.name, port.protocol) == (port_name, protocol)
            for each in found.endpoints
        )
        weight = max(1, 100 // len(targets)) if targets else 0
        return [Record(name, Kind.SRV, f"0 {weight} {number} {label}.{base}.") for label, number in targets] or None

    # ---- answers

    def _follow(self, found: list[Record], kind: Kind | None) -> Answer:
        """Records of the type asked for, by way of aliases; with the addresses of SRV targets."""
        records: list[Record] = []
        for _ in range(_ALIASES_MOST):
            alias = next((each for each in found if each.kind is Kind.CNAME), None)
            if alias is None or kind is Kind.CNAME:
                break
            records.append(alias)
            target = alias.data.rstrip(".").lower()
            labels = tuple(target.split("."))
            if labels[-len(self._labels) :] != self._labels:
                return Answer(Outcome.ANSWER, tuple(records), alias=target)
            found = self._records(target, labels[: -len(self._labels)]) or []
        records += [each for each in found if each.kind is kind]
        return Answer(Outcome.ANSWER, tuple(records), tuple(self._additional(records)))

    def _additional(self, records: Iterable[Record]) -> Iterable[Record]:
        for target in dict.fromkeys(each.data.split()[3].rstrip(".") for each in records if each.kind is Kind.SRV):
            labels = target.split(".")[: -len(self._labels)]
            yield from (each for each in self._records(target, labels) or () if each.kind in _ADDRESSES)

    def _pointers(self, name: str, addr: Addr, kind: Kind | None) -> Answer:
        owners = [self._name(service.key) for service in self._services.by("address", addr)]
        for found in self._slices.by("address", addr):
            service = self._services.get(found.service)
            if service is not None and service.is_headless:
                owners += [f"{each.label}.{self._name(found.service)}" for each in found.endpoints if each.addr == addr]
        if not owners:
            return ELSEWHERE
        if kind is not Kind.PTR:
            return EMPTY
        return Answer(Outcome.ANSWER, tuple(Record(name, Kind.PTR, f"{each}.") for each in dict.fromkeys(owners)))

    def _endpoints(self, service: NamedService) -> Iterable[NamedEndpoint]:
        for found in self._slices.by("service", service.key):
            yield from found.endpoints

    def _name(self, key: ObjectKey) -> str:
        return f"{key.name}.{key.namespace}.svc.{self.domain}"


def reverse(labels: Sequence[str]) -> Addr | None:
    """The address that an in-addr.arpa or ip6.arpa name means."""
    match labels:
        case (*digits, "in-addr", "arpa") if len(digits) == 4:
            text = ".".join(reversed(digits))
        case (*digits, "ip6", "arpa") if len(digits) == 32 and all(len(digit) == 1 for digit in digits):
            joined = "".join(reversed(digits))
            text = ":".join(joined[at : at + 4] for at in range(0, 32, 4))
        case _:
            return None
    try:
        return Addr.parse(text)
    except ValueError:
        return None


def address_record(name: str, addr: Addr) -> Record:
    """A or AAAA, by the address' family."""
    return Record(name, Kind.A if addr.is_ipv4 else Kind.AAAA, str(addr))


__all__ = [
    "ELSEWHERE",
    "EMPTY",
    "NO_SUCH_NAME",
    "Answer",
    "Kind",
    "Outcome",
    "Record",
    "Zone",
    "address_record",
    "dashed",
    "reverse",
]
