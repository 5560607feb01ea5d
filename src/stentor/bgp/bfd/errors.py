"""What can go wrong, by what the caller does about it."""


class BfdError(Exception):
    """Root of this package's errors."""


class Malformed(BfdError):
    """A packet that RFC 5880 §6.8.6 tells to discard; ``reason`` is one of few words, for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadRequest(BfdError):
    """A client asks for a session that cannot be; ``field`` names what is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class AlreadyServed(BfdError):
    """Another process serves the socket ``path``."""

    def __init__(self, path: str) -> None:
        super().__init__(f"another process serves {path}")
        self.path = path


class Unreachable(BfdError):
    """Nobody answers on the control socket ``path``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot reach the BFD process at {path}: {reason}")
        self.path = path
