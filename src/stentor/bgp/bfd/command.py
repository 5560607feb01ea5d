"""``stentor bfd``: the BFD process, and a look at its sessions."""

import asyncio
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from stentor.bgp.bfd.client import fetch
from stentor.bgp.bfd.errors import AlreadyServed, BfdError
from stentor.bgp.bfd.message import Status
from stentor.bgp.bfd.packet import Diagnostic
from stentor.bgp.bfd.process import Client, Process
from stentor.runtime import log as logs
from stentor.runtime.fault import describe

SOCKET: Final = "/run/stentor/bfd.sock"
_REAL_TIME_PRIORITY: Final = 50
_COLUMNS: Final = ("NEIGHBOR", "LOCAL", "KIND", "STATE", "SINCE", "INTERVAL", "DETECTION", "FLAPS", "REASON")

log = logging.getLogger(__name__)


@click.command(name="bfd", context_settings={"show_default": True})
@click.option("--socket", "path", default=SOCKET, help="The control socket.")
@click.option("--grace", "grace_s", default=120.0, help="Seconds that sessions outlive the client that wanted them.")
@click.option("--exit-when-idle", is_flag=True, help="End when there is neither a session nor a client.")
@click.option("--list", "listing", is_flag=True, help="Print the sessions of the running process, and end.")
@click.option("--debug", is_flag=True, help="Log more.")
def command(path: str, grace_s: float, *, exit_when_idle: bool, listing: bool, debug: bool) -> None:
    """Bidirectional forwarding detection in a process of its own (RFC 5880 to 5883)."""
    try:
        if listing:
            click.echo(render(fetch(path)))
        else:
            logs.set_up(debug=debug)
            asyncio.run(serve(Path(path), grace_s, exit_when_idle=exit_when_idle))
    except (BfdError, OSError) as error:
        raise click.ClickException(describe(error)) from error


def main(argv: list[str]) -> int:
    """Run with these arguments; the exit status."""
    try:
        command.main(args=argv, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as ending:
        return ending.exit_code
    return 0


async def serve(path: Path, grace_s: float, *, exit_when_idle: bool) -> None:
    """Serve until SIGTERM or SIGINT; AlreadyServed when another process does, OSError when a port is taken."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    lock = take_lock(path)
    process = Process(loop, grace_s)
    try:
        process.open()
        server = await loop.create_unix_server(lambda: Client(process), sock=bind(path))
        prefer()
        log.info("Serving", extra={"socket": str(path)})
        try:
            await wait(process, stopped, exit_when_idle=exit_when_idle)
        finally:
            server.close()
    finally:
        process.close()
        path.unlink(missing_ok=True)  # noqa: ASYNC240
        os.close(lock)


async def wait(process: Process, stopped: asyncio.Event, *, exit_when_idle: bool) -> None:
    """Until a signal, or until nobody has needed this process for some seconds."""
    while exit_when_idle and not stopped.is_set():
        try:
            await asyncio.wait_for(stopped.wait(), 5.0)
        except TimeoutError:
            if process.idle.is_set():
                return
    await stopped.wait()


def take_lock(path: Path) -> int:
    """A descriptor that locks ``path`` for this process; the kernel frees it however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AlreadyServed(str(path)) from None
    return lock


def bind(path: Path) -> socket.socket:
    """The control socket, for its owner only; whoever holds the lock may replace a dead one."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    return listener


def prefer() -> None:
    """Run before everything that does not need milliseconds, and never pause for the garbage of start-up."""
    gc.collect()
    gc.freeze()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REAL_TIME_PRIORITY))
    except OSError as error:
        log.warning("No real-time scheduling: detection may be late under load", extra={"reason": error.strerror})


def render(statuses: tuple[Status, ...]) -> str:
    """A table, one session a line."""
    rows = [_COLUMNS] + [_row(status) for status in statuses]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(status: Status) -> tuple[str, ...]:
    known = status.diagnostic in Diagnostic.__members__.values()
    reason = Diagnostic(status.diagnostic).name.lower().replace("_", " ") if known and status.diagnostic else ""
    return (
        str(status.endpoint),
        status.endpoint.local,
        "multihop" if status.endpoint.multihop else "single hop",
        status.state.name,
        datetime.fromtimestamp(status.changed, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        f"{status.transmit_interval_us / 1000:g}ms",
        f"{status.detection_time_us / 1000:g}ms",
        str(status.flaps),
        status.error or reason,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
