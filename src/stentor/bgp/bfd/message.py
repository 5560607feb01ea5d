"""What clients and the BFD process say to each other: JSON, one message a line, over a unix socket.

A client states the whole set of sessions it wants, as often as it likes; the process makes the difference. Sessions belong to
the client's *owner* name, not to its connection: a client that comes back under its name finds them alive.
"""

import msgspec

from stentor.bgp.bfd.errors import BadRequest
from stentor.bgp.bfd.packet import State
from stentor.bgp.bfd.session import Settings
from stentor.bgp.nlri import format_address, parse_address

MAX_LINE = 4 << 20
_MOST_INTERVAL_US = 60_000_000
_LINK_LOCAL = b"\xfe\x80"


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whom a session is with. ``local`` empty: the kernel's choice; ``interface`` is required for link-local addresses."""

    peer: str
    local: str = ""
    interface: str = ""
    multihop: bool = False

    def __str__(self) -> str:
        return f"{self.peer}%{self.interface}" if self.interface else self.peer


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session that a client wants. ``least_hops``: the lowest TTL accepted on a multihop session."""

    endpoint: Endpoint
    settings: Settings = Settings()
    least_hops: int = 1


class Status(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A session as it is; ``error`` tells why it cannot run, ``changed`` is the Unix time of its last change of state.

    ``independent`` is the neighbour's C bit: where it is set, Down means that the neighbour's forwarding failed, even while its
    control plane restarts gracefully (RFC 5882 §4.3).
    """

    endpoint: Endpoint
    state: State = State.DOWN
    diagnostic: int = 0
    neighbor_state: State = State.DOWN
    neighbor_diagnostic: int = 0
    independent: bool = False
    discriminator: int = 0
    neighbor_discriminator: int = 0
    transmit_interval_us: int = 0
    detection_time_us: int = 0
    changed: float = 0.0
    flaps: int = 0
    received: int = 0
    sent: int = 0
    error: str = ""

    @property
    def is_up(self) -> bool:
        return self.state is State.UP

    @property
    def is_disabled_by_neighbor(self) -> bool:
        """The neighbour's operator took the session down, which is no failure of the path (RFC 5882 §3.2)."""
        return self.neighbor_state is State.ADMIN_DOWN


class Want(msgspec.Struct, frozen=True, tag="want"):
    """Client → process: these are ``owner``'s sessions from now on, and no others."""

    owner: str
    sessions: tuple[Request, ...] = ()


class Show(msgspec.Struct, frozen=True, tag="show"):
    """Client → process: tell all sessions, whoever owns them, once."""


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Process → client: after ``Want`` and ``Show`` all sessions asked for (``complete``), later each that changed."""

    sessions: tuple[Status, ...]
    complete: bool = False


Ask = Want | Show
decode_ask = msgspec.json.Decoder(Ask).decode
decode_report = msgspec.json.Decoder(Report).decode
_encode = msgspec.json.Encoder().encode


def encode_line(message: Want | Show | Report) -> bytes:
    """A message with its line end."""
    return _encode(message) + b"\n"


def check(request: Request) -> Request:
    """The request with its addresses in canonical form; BadRequest names the field that cannot be."""
    endpoint, settings = request.endpoint, request.settings
    peer = _address("peer", endpoint.peer)
    local = _address("local", endpoint.local) if endpoint.local else b""
    if local and len(local) != len(peer):
        raise BadRequest("local", f"{endpoint.local} is of another family than {endpoint.peer}")
    if peer[:2] == _LINK_LOCAL and not endpoint.interface:
        raise BadRequest("interface", f"{endpoint.peer} is link-local: an interface is required")
    if len(endpoint.interface.encode()) > 15:
        raise BadRequest("interface", f"{endpoint.interface!r} is longer than 15 octets")
    for name, value, least, most in (
        ("transmit_us", settings.transmit_us, 1, _MOST_INTERVAL_US),
        ("receive_us", settings.receive_us, 1, _MOST_INTERVAL_US),
        ("multiplier", settings.multiplier, 1, 255),
        ("least_hops", request.least_hops, 1, 255),
    ):
        if not least <= value <= most:
            raise BadRequest(name, f"{value} is not in {least}..{most}")
    canonical = Endpoint(
        format_address(peer), format_address(local) if local else "", endpoint.interface, endpoint.multihop
    )
    return msgspec.structs.replace(request, endpoint=canonical)


def _address(field: str, text: str) -> bytes:
    try:
        return parse_address(text)
    except ValueError:
        raise BadRequest(field, f"{text!r} is no address") from None
