"""BFD control packets (RFC 5880 §4.1), without sockets.

     0                   1                   2                   3
    |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
    |                       My Discriminator                        |
    |                      Your Discriminator                       |
    |                    Desired Min TX Interval                    |   all intervals in µs
    |                   Required Min RX Interval                    |
    |                 Required Min Echo RX Interval                 |

``decode`` makes those checks of §6.8.6 that need no session; authentication is refused, because no session uses it.
"""

from enum import IntEnum
from struct import Struct as Layout

import msgspec

from stentor.bgp.bfd.errors import Malformed

VERSION = 1
LENGTH = 24
_LAYOUT = Layout("!BBBBIIIII")
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATION, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class State(IntEnum):
    """Session states as they travel."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """Why a session last left Up."""

    NONE = 0
    DETECTION_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_DOWN = 3
    PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_DOWN = 6
    ADMIN_DOWN = 7
    REVERSE_DOWN = 8


class Packet(msgspec.Struct, frozen=True):
    """One control packet. ``diagnostic`` is 0..31: codes above 8 are reserved and kept as they came."""

    state: State
    multiplier: int
    my_discriminator: int
    your_discriminator: int
    desired_min_tx_us: int
    required_min_rx_us: int
    required_min_echo_rx_us: int = 0
    diagnostic: int = Diagnostic.NONE
    poll: bool = False
    final: bool = False
    independent: bool = False
    demand: bool = False


def encode(packet: Packet) -> bytes:
    """24 octets."""
    flags = (
        packet.state << 6
        | (_POLL if packet.poll else 0)
        | (_FINAL if packet.final else 0)
        | (_INDEPENDENT if packet.independent else 0)
        | (_DEMAND if packet.demand else 0)
    )
    return _LAYOUT.pack(
        VERSION << 5 | packet.diagnostic,
        flags,
        packet.multiplier,
        LENGTH,
        packet.my_discriminator,
        packet.your_discriminator,
        packet.desired_min_tx_us,
        packet.required_min_rx_us,
        packet.required_min_echo_rx_us,
    )


def decode(data: bytes) -> Packet:
    """A UDP payload; octets after the packet's own length are ignored. Malformed is the only error."""
    if len(data) < LENGTH:
        raise Malformed("shorter than a header")
    first, flags, multiplier, length, mine, yours, transmit_us, receive_us, echo_us = _LAYOUT.unpack_from(data)
    if first >> 5 != VERSION:
        raise Malformed("wrong version")
    if not LENGTH <= length <= len(data):
        raise Malformed("wrong length")
    if flags & _AUTHENTICATION:
        raise Malformed("authentication is not in use")
    if flags & _MULTIPOINT:
        raise Malformed("multipoint")
    if not multiplier:
        raise Malformed("multiplier 0")
    if not mine:
        raise Malformed("discriminator 0")
    state = State(flags >> 6)
    if not yours and state > State.DOWN:
        raise Malformed("no discriminator of ours in this state")
    return Packet(
        state=state,
        multiplier=multiplier,
        my_discriminator=mine,
        your_discriminator=yours,
        desired_min_tx_us=transmit_us,
        required_min_rx_us=receive_us,
        required_min_echo_rx_us=echo_us,
        diagnostic=first & 0x1F,
        poll=bool(flags & _POLL),
        final=bool(flags & _FINAL),
        independent=bool(flags & _INDEPENDENT),
        demand=bool(flags & _DEMAND),
    )
