"""What can go wrong, by what the caller does about it."""

from enum import IntEnum


class BgpError(Exception):
    """Root of this package's errors."""


class Code(IntEnum):
    """NOTIFICATION error codes (RFC 4271 §4.5, RFC 7313 §5, RFC 9687 §4)."""

    HEADER = 1
    OPEN = 2
    UPDATE = 3
    HOLD_TIMER = 4
    FSM = 5
    CEASE = 6
    ROUTE_REFRESH = 7
    SEND_HOLD_TIMER = 8


class Cease(IntEnum):
    """Subcodes of CEASE (RFC 4486, RFC 8538, RFC 9384)."""

    MAX_PREFIXES = 1
    SHUTDOWN = 2
    DECONFIGURED = 3
    RESET = 4
    REJECTED = 5
    CONFIG_CHANGE = 6
    COLLISION = 7
    OUT_OF_RESOURCES = 8
    HARD_RESET = 9
    BFD_DOWN = 10


class PeerFault(BgpError):
    """The peer broke the protocol: answer with this NOTIFICATION and close the session."""

    def __init__(self, code: int, subcode: int, data: bytes = b"", reason: str = "") -> None:
        super().__init__(reason or f"error {code}/{subcode}")
        self.code = code
        self.subcode = subcode
        self.data = data
        self.reason = reason


class ConfigError(BgpError):
    """The configuration is wrong at ``field`` (a path such as ``peers[0].peerASN``)."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class Unsupported(BgpError):
    """The kernel lacks something the configuration asks for; ``feature`` names it."""

    def __init__(self, feature: str, reason: str) -> None:
        super().__init__(f"{feature}: {reason}")
        self.feature = feature
        self.reason = reason


class Unreachable(BgpError):
    """Nobody answers on the control socket ``path``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot reach the speaker at {path}: {reason}")
        self.path = path
