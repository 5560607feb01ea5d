"""`stentor apiserver`: wires the parts, listens, and ends cleanly on SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import gc
import ipaddress
import logging
import signal
import socket
import sqlite3
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from stentor.apiserver import pki
from stentor.apiserver.allocation import Allocator
from stentor.apiserver.authentication import Authenticator
from stentor.apiserver.authorization import ADMINS, Authorizer
from stentor.apiserver.garbage import Garbage
from stentor.apiserver.kubelet import KubeletProxy
from stentor.apiserver.lifecycle import Lifecycle
from stentor.apiserver.registry import Registry
from stentor.apiserver.rest import Rest
from stentor.apiserver.schema import load_definitions
from stentor.apiserver.server import Server, make_http, make_tls
from stentor.apiserver.store import Store
from stentor.apiserver.subresource import Subresources
from stentor.apiserver.token import Signer
from stentor.runtime import log as logs
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup

log = logging.getLogger(__name__)

DEFAULT_SERVICE_CIDR: Final = "10.96.0.0/16"
_SHUTDOWN_S: Final = 2.0
_EVENT_SWEEP_S: Final = 60.0
# Objects that live for ever are many, garbage in cycles is rare: full collections of a large heap cost 100 ms each.
_GC_THRESHOLDS: Final = (50_000, 20, 100)


class Options(msgspec.Struct, frozen=True):
    """The flags, parsed."""

    data: Path
    pki: Path
    listen: tuple[tuple[str, int], ...]
    service_cidrs: tuple[str, ...] = (DEFAULT_SERVICE_CIDR,)
    advertise: tuple[str, ...] = ()
    durable: bool = False
    debug: bool = False


def parse(argv: Sequence[str]) -> Options:
    """Options from the command line; exits with status 2 and a message that names the flag when one is wrong."""
    parser = argparse.ArgumentParser("stentor apiserver", description="A Kubernetes-compatible API server.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where objects are kept")
    parser.add_argument(
        "--pki", type=Path, required=True, metavar="DIR", help="keys and certificates; made when missing"
    )
    parser.add_argument(
        "--listen",
        action="append",
        type=_endpoint,
        metavar="ADDRESS:PORT",
        help="default 127.0.0.1:6443; may be repeated",
    )
    parser.add_argument(
        "--service-cidr",
        action="append",
        type=_network,
        metavar="CIDR",
        help=f"default {DEFAULT_SERVICE_CIDR}; one a family",
    )
    parser.add_argument(
        "--advertise-address",
        action="append",
        type=_address,
        metavar="ADDRESS",
        help="endpoint of the kubernetes Service; may be repeated",
    )
    parser.add_argument("--durable", action="store_true", help="survive power loss, not only the process's death")
    parser.add_argument("--debug", action="store_true", help="log more")
    given = parser.parse_args(argv)
    listen = tuple(given.listen or (("127.0.0.1", 6443),))
    cidrs = tuple(given.service_cidr or (DEFAULT_SERVICE_CIDR,))
    if len({ipaddress.ip_network(c).version for c in cidrs}) < len(cidrs):
        parser.error("--service-cidr: at most one of each family")
    advertise = tuple(given.advertise_address or (a for a, _ in listen if _is_reachable(a)))
    return Options(given.data, given.pki, listen, cidrs, advertise, given.durable, given.debug)


def _endpoint(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}: expected ADDRESS:PORT")
    return _address(address.strip("[]")), int(port)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from fault


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from fault


def _is_reachable(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return not (parsed.is_loopback or parsed.is_unspecified)


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean end."""
    options = parse(argv)
    logs.set_up(debug=options.debug)
    try:
        uvloop.run(serve(options))
    except (OSError, ValueError, sqlite3.Error) as fault:
        log.error("cannot start", extra={"cause": fault})
        return 1
    return 0


async def serve(options: Options) -> None:
    """Everything, from the store to the listeners."""
    options.data.mkdir(parents=True, exist_ok=True)
    files = pki.Files(options.pki)
    authority = files.ensure(_subjects(options))
    store = Store(options.data / "objects.sqlite", durable=options.durable)
    store.open()
    rest = Rest(store, Registry(load_definitions()), Allocator(options.service_cidrs))
    rest.load()
    lifecycle, garbage = Lifecycle(rest, authority.pair.certificate.decode()), Garbage(rest)
    signer = Signer(pki.load_key(files.path("sa.key").read_bytes()))
    authenticator, authorizer = Authenticator(signer, store), Authorizer(store)
    proxy = KubeletProxy(rest, _kubelet_tls(files))
    server = Server(
        rest, authenticator, authorizer, Subresources(rest, signer, authenticator, authorizer), proxy, lifecycle
    )
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with JobGroup(Health()) as jobs:
        await lifecycle.bootstrap(options.advertise, options.listen[0][1])
        jobs.keep("namespaces", lifecycle.run)
        jobs.keep("garbage", garbage.run)
        jobs.every("events", _EVENT_SWEEP_S, lifecycle.expire_events)
        await _listen(options, files, authority, server, stop)
    await proxy.close()
    store.close()


async def _listen(
    options: Options, files: pki.Files, authority: pki.Authority, server: Server, stop: asyncio.Event
) -> None:
    loop = asyncio.get_running_loop()
    tls = make_tls(str(files.path("apiserver.crt")), str(files.path("apiserver.key")), str(files.path("ca.crt")))
    http = make_http(server)
    listeners = [
        await loop.create_server(
            http, address, port, ssl=tls, family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
        for address, port in options.listen
    ]
    bound = [listener.sockets[0].getsockname()[:2] for listener in listeners]
    _write_admin(files, authority, *bound[0])
    server.is_ready = True
    log.info("serving", extra={"listen": ",".join(f"{a}:{p}" for a, p in bound)})
    await stop.wait()
    server.stop()
    for listener in listeners:
        listener.close()
    await http.shutdown(_SHUTDOWN_S)
    log.info("stopped")


def _write_admin(files: pki.Files, authority: pki.Authority, address: str, port: int) -> None:
    """admin.kubeconfig for whoever may read the directory."""
    host = "127.0.0.1" if address in ("0.0.0.0", "::") else address
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    if not files.path("admin.key").exists():
        files.write_pair("admin", pki.make_client(authority, "kubernetes-admin", (ADMINS,)))
    text = pki.make_kubeconfig(url, authority.pair.certificate, files.read_pair("admin"))
    pki.write_private(files.path("admin.kubeconfig"), text.encode())


def _subjects(options: Options) -> list[str]:
    """Names and addresses that the server's certificate is good for."""
    addresses = [a for a, _ in options.listen if not ipaddress.ip_address(a).is_unspecified]
    services = [str(ipaddress.ip_network(c)[1]) for c in options.service_cidrs]
    return [*addresses, *options.advertise, *services, "127.0.0.1", "::1", socket.gethostname()]


def _kubelet_tls(files: pki.Files) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(files.path("ca.crt")))
    pair = "apiserver-kubelet-client"
    context.load_cert_chain(files.path(f"{pair}.crt"), files.path(f"{pair}.key"))
    return context


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
