"""One TCP connection of a session: cuts what comes into messages, sends what it is given, never buffers without bound.

Works on the bare socket with the loop's readiness callbacks: the sender sees how much the kernel took, so that routes are
turned into messages only when the peer reads them. One turn of the loop reads at most ``READ_SIZE``, so that a peer that floods
gets no more than its share.
"""

import asyncio
import fcntl
import socket
import termios
from array import array
from collections import deque
from collections.abc import Callable

from stentor.bgp.errors import PeerFault
from stentor.bgp.wire import MAX_MESSAGE, Kind, split_messages

READ_SIZE = 64 * 1024
HIGH_WATER = 256 * 1024
LINGER_S = 1.0


class Connection:
    """Owns a connected socket. ``on_messages`` gets what came at once, ``on_closed`` the end, ``on_room`` when it may send."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        on_messages: Callable[[list[tuple[Kind, bytes]]], None],
        on_fault: Callable[[PeerFault], None],
        on_closed: Callable[[str], None],
        on_room: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._on_messages = on_messages
        self._on_fault = on_fault
        self._on_closed = on_closed
        self._on_room = on_room
        self._received = b""
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._is_waiting = False
        self._is_closing = False
        self.is_open = True
        self.limit = MAX_MESSAGE
        self.sent_at = loop.time()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.add_reader(sock.fileno(), self._read)

    @property
    def has_room(self) -> bool:
        """Whether more may be given to ``write`` without growing the queue beyond its mark."""
        return self.is_open and self._queued < HIGH_WATER

    @property
    def is_stuck(self) -> bool:
        """Whether something waits for the peer to read."""
        return self._queued > 0

    def local(self) -> tuple[str, int]:
        """Our address and port; zones are cut off."""
        name = self._socket.getsockname()
        return name[0].partition("%")[0], name[1]

    def interface_index(self) -> int:
        """The scope of a link-local connection, 0 for all others."""
        name = self._socket.getsockname()
        return int(name[3]) if len(name) == 4 else 0

    def write(self, data: bytes) -> None:
        """Send, or queue what the kernel does not take now."""
        if not self.is_open or self._is_closing or not data:
            return
        view = memoryview(data)
        if not self._queue:
            sent = self._send(view)
            if sent == len(data):
                return
            view = view[sent:]
        self._queue.append(view)
        self._queued += len(view)
        if not self._is_waiting and self.is_open:
            self._is_waiting = True
            self._loop.add_writer(self._socket.fileno(), self._flush)

    def close(self) -> None:
        """Close after a last attempt to send what is queued; no callback follows."""
        if not self.is_open:
            return
        while self._queue and self._send(self._queue[0]) == len(self._queue[0]):
            self._queue.popleft()
        self._release()
        if _unread(self._socket):
            self._linger()
        else:
            self._socket.close()

    def _release(self) -> None:
        self.is_open = False
        self._loop.remove_reader(self._socket.fileno())
        if self._is_waiting:
            self._loop.remove_writer(self._socket.fileno())
        self._queue.clear()
        self._queued = 0

    def _linger(self) -> None:
        """A socket closed with unread data is reset, and the peer may never see our NOTIFICATION: read on for a moment."""
        sock, loop = self._socket, self._loop

        def drop() -> None:
            if sock.fileno() >= 0:
                loop.remove_reader(sock.fileno())
                sock.close()

        def discard() -> None:
            try:
                is_over = not sock.recv(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                is_over = True
            if is_over:
                drop()

        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        loop.add_reader(sock.fileno(), discard)
        loop.call_later(LINGER_S, drop)

    def _send(self, view: memoryview) -> int:
        try:
            sent = self._socket.send(view)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return 0  # the reader learns of it and reports the end once
        self.sent_at = self._loop.time()
        return sent

    def _flush(self) -> None:
        while self._queue:
            view = self._queue[0]
            sent = self._send(view)
            self._queued -= sent
            if sent < len(view):
                self._queue[0] = view[sent:]
                break
            self._queue.popleft()
        if not self._queue:
            self._is_waiting = False
            self._loop.remove_writer(self._socket.fileno())
        if self.has_room:
            self._on_room()

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error.strerror or "connection lost")
            return
        if not data:
            self._end("connection closed by the peer")
            return
        self._dispatch(self._received + data if self._received else data)

    def _dispatch(self, data: bytes) -> None:
        while True:
            try:
                # The limit may change between two messages of one read: OPEN raises it (RFC 8654 §4).
                messages, position = split_messages(data, self.limit)
            except PeerFault as fault:
                self._on_fault(fault)
                return
            if not messages:
                self._received = data
                return
            self._on_messages(messages)
            if not self.is_open:
                return
            data = data[position:]

    def _end(self, reason: str) -> None:
        self._release()
        self._socket.close()
        self._on_closed(reason)


def _unread(sock: socket.socket) -> bool:
    waiting = array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, waiting)
    return waiting[0] > 0
