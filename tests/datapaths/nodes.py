"""Two nodes, their pods and an outside host, built by hand: what an agent does, without one.

    outside ── wire (bridge) ──┬── node a: pods a1, a2
                               └── node b: pods b1

Namespaces exist only as descriptors of this process, so whatever happens nothing stays behind.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stentor.datapath import targets
from stentor.datapath.config import DatapathConfig
from stentor.datapath.loader import Datapath
from stentor.datapath.names import Pins
from stentor.net.address import Addr, Prefix
from stentor.net.identity import Reserved
from stentor.sys.bridge import bypass_netfilter
from stentor.sys.namespace import new_network, visit_network
from stentor.tables.endpoint import EndpointEntry
from stentor.tables.ipcache import IPCacheEntry, IPCacheFlag
from stentor.tables.masquerade import Uplink
from stentor.tables.node import NodeAddress
from stentor.tables.policy import ANYONE, Direction, Form, PolicyPeer, PolicyRule

LIMITS = {"ipcacheMax": 8192, "ctTcpMax": 8192, "ctAnyMax": 8192, "natMax": 8192}
POD_MTU = 1430  # 1500 - 70: VXLAN over IPv6
ALLOW_ALL = 1  # the class, and the policy set that leads to it in both directions
OUTSIDE = {4: "192.0.2.9", 6: "2001:db8::9"}
FORWARDING = (
    "net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1", "net/ipv4/conf/all/rp_filter=0",
    "net/ipv4/conf/default/rp_filter=0",
)  # fmt: skip


class Host:
    """A network namespace and commands in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fd = new_network()
        self.ip("link set lo up")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        with visit_network(self.fd):
            yield

    def run(self, *argv: str, input: str | None = None, check: bool = True) -> str:
        with self.inside():
            done = subprocess.run(argv, input=input, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *argv: str) -> subprocess.Popen[str]:
        with self.inside():
            return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ip(self, *lines: str) -> None:
        self.run("ip", "-batch", "-", input="\n".join(lines) + "\n")

    def sysctl(self, *settings: str) -> None:
        with self.inside():
            for setting in settings:
                name, value = setting.split("=")
                Path("/proc/sys", name).write_text(value)

    def socket(self, family: int, kind: int) -> socket.socket:
        with self.inside():
            return socket.socket(family, kind)

    def ifindex(self, device: str) -> int:
        with self.inside():
            return socket.if_nametoindex(device)

    def close(self) -> None:
        os.close(self.fd)


class Pod(Host):
    """Both ends of its veth carry one MAC and do no ARP; the default route has no gateway."""

    def __init__(self, node: Node, number: int, name: str) -> None:
        super().__init__(name)
        n = node.number
        self.number, self.identity, self.policy = number, 1000 * n + number, ALLOW_ALL
        self.device = f"lxc{name}"
        self.addresses = {4: f"10.{n}.0.{10 + number}", 6: f"fd00:{n}::{10 + number}"}
        self.mac = bytes((2, 0, 0, 0, n, number))
        link = f"mtu {POD_MTU} address {self.mac.hex(':')}"
        node.ip(f"link add {self.device} {link} type veth peer name eth0 {link} netns {self.path}")
        node.ip(f"link set {self.device} arp off addrgenmode none")
        self.ifindex_on_node = node.ifindex(self.device)

    def connect(self, node: Node) -> None:
        """The last steps: the link comes up and gets its routes."""
        node.ip(f"link set {self.device} up")
        self.ip("link set eth0 arp off addrgenmode none", "link set eth0 up",
                *(f"addr add {ip} dev eth0 nodad" for ip in self.addresses.values()),
                "route add default dev eth0", "route add ::/0 dev eth0")  # fmt: skip
        node.ip(*(f"route add {ip} dev {self.device}" for ip in self.addresses.values()))

    def entries(self) -> list[tuple[Addr, EndpointEntry]]:
        return [
            (addr, EndpointEntry(addr=addr, endpoint_id=self.number, ifindex=self.ifindex_on_node, identity=self.identity,
                                 policy_id=self.policy, mac=self.mac))
            for addr in map(Addr.parse, self.addresses.values())
        ]  # fmt: skip


class Node(Host):
    """A node's namespace with its overlay, its cilium_host and its uplink."""

    def __init__(self, name: str, number: int, bpffs: Path, underlay: int, limits: Mapping[str, int] = LIMITS) -> None:
        super().__init__(name)
        self.number, self.underlay, self.limits = number, underlay, limits
        self.addresses = {4: f"192.0.2.{number}", 6: f"2001:db8::{number}"}
        self.router = {4: f"10.{number}.0.1", 6: f"fd00:{number}::1"}
        self.pins = Pins(bpffs / name)
        self.pods: dict[str, Pod] = {}
        self.sysctl(*FORWARDING)
        self.ip("link add cilium_host type veth peer name cilium_net", "link set cilium_net arp off up",
                "link set cilium_host arp off up",
                "link add cilium_vxlan type vxlan external dstport 8472 nolearning",
                f"link set cilium_vxlan mtu {POD_MTU} arp off addrgenmode none up",
                *(f"addr add {ip} dev cilium_host nodad" for ip in self.router.values()))  # fmt: skip
        self.pins.bpffs.mkdir()
        with self.inside():
            self.datapath = self.load()

    def load(self, *, accelerate: bool = False, **changes: object) -> Datapath:
        source = Addr.parse(self.addresses[4]) if self.underlay == 4 else None
        basics = {"overlay_ifindex": self.ifindex("cilium_vxlan"), "overlay_source": source}
        config = DatapathConfig(**basics | changes)  # type: ignore[arg-type]
        return Datapath.load(self.pins, config, limits=self.limits, accelerate=accelerate)

    def attach(self) -> None:
        with self.inside():
            self.datapath.attach_overlay(self.ifindex("cilium_vxlan"))
            self.datapath.attach_host(self.ifindex("cilium_host"))
            self.datapath.attach_uplink(self.ifindex("eth0"))
        v4, v6 = (Addr.parse(self.addresses[family]) for family in (4, 6))
        uplink = Uplink(ifindex=self.ifindex("eth0"), ipv4=v4, ipv6=v6)
        write(targets.uplinks(self.datapath.maps), [(uplink.ifindex, uplink)])
        self.allow_all()

    def allow_all(self) -> None:
        rule = PolicyRule(class_id=ALLOW_ALL)
        write(targets.rules(self.datapath.maps), [(rule.key, rule)])
        peers = [
            PolicyPeer(policy_id=ALLOW_ALL, direction=d, identity=ANYONE, class_id=ALLOW_ALL, forms=Form.ANY)
            for d in Direction
        ]
        write(targets.peers(self.datapath.maps), [(peer.key, peer) for peer in peers])

    def add_pod(self, name: str, number: int, policy: int = ALLOW_ALL) -> Pod:
        pod = self.pods[name] = Pod(self, number, name)
        pod.policy = policy
        write(targets.endpoints(self.datapath.maps), pod.entries())
        with self.inside():
            self.datapath.attach_endpoint(pod.ifindex_on_node)
        pod.connect(self)
        return pod

    def remove_pod(self, name: str) -> None:
        pod = self.pods.pop(name)
        deletes = [addr for addr, _ in pod.entries()]
        assert asyncio.run(targets.endpoints(self.datapath.maps).apply([], deletes)) == {}
        self.ip(f"link del {pod.device}")
        pod.close()

    def set_policy(self, pod: Pod, policy: int) -> None:
        pod.policy = policy
        write(targets.endpoints(self.datapath.maps), pod.entries())

    def know(self, nodes: Sequence[Node]) -> None:
        """Addresses, pods and routes of every node."""
        rows: list[IPCacheEntry] = []
        for node in nodes:
            own = node is self
            tunnel = None if own else Addr.parse(node.addresses[self.underlay])
            identity = Reserved.HOST if own else Reserved.REMOTE_NODE
            flags = IPCacheFlag.NONE if own else IPCacheFlag.SKIP_TUNNEL
            rows += [entry(ip, identity, tunnel, flags) for ip in node.addresses.values()]
            rows += [entry(ip, identity, tunnel) for ip in node.router.values()]
            rows += [entry(ip, pod.identity, tunnel) for pod in node.pods.values() for ip in pod.addresses.values()]
            if not own:
                by = "dev cilium_host"
                self.ip(f"route replace 10.{node.number}.0.0/24 {by} src {self.router[4]} mtu {POD_MTU}",
                        f"route replace fd00:{node.number}::/64 {by} src {self.router[6]} mtu {POD_MTU}")  # fmt: skip
        write(targets.ipcache(self.datapath.maps), [(row.prefix, row) for row in rows])
        outer = [Addr.parse(ip) for node in nodes if node is not self for ip in node.addresses.values()]
        write(targets.nodes(self.datapath.maps), [(a, NodeAddress(addr=a, node_id=1, identity=6)) for a in outer])

    def close(self) -> None:
        self.datapath.close()
        shutil.rmtree(self.pins.bpffs, ignore_errors=True)
        for pod in self.pods.values():
            pod.close()
        super().close()


def entry(ip: str, identity: int, tunnel: Addr | None, flags: IPCacheFlag = IPCacheFlag.NONE) -> IPCacheEntry:
    return IPCacheEntry(prefix=Prefix.parse(ip), identity=identity, tunnel=tunnel, flags=flags)


def write(target: targets.MapTarget, rows: Sequence[tuple[object, object]]) -> None:
    failed = asyncio.run(target.apply(rows, []))
    assert failed == {}


class World:
    """Everything above, running; `limits` are capacities of maps, of which a test needs little."""

    def __init__(self, bpffs: Path, underlay: int = 4, limits: Mapping[str, int] = LIMITS) -> None:
        with ExitStack() as undo:
            self.outside = Host("outside")
            undo.callback(self.outside.close)
            self.wire = Host("wire")
            undo.callback(self.wire.close)
            self.a = Node("a", 1, bpffs, underlay, limits)
            undo.callback(self.a.close)
            self.b = Node("b", 2, bpffs, underlay, limits)
            undo.callback(self.b.close)
            with self.wire.inside():
                bypass_netfilter()
            self.wire.ip("link add br0 type bridge", "link set br0 up")
            for host, addresses in ((self.a, self.a.addresses), (self.b, self.b.addresses), (self.outside, OUTSIDE)):
                self.wire.ip(f"link add name {host.name} type veth peer name eth0 netns {host.path}",
                             f"link set dev {host.name} master br0 addrgenmode none up")  # fmt: skip
                host.ip(
                    "link set eth0 up",
                    f"addr add {addresses[4]}/24 dev eth0",
                    f"addr add {addresses[6]}/64 dev eth0 nodad",
                )
            self.nodes = (self.a, self.b)
            for node in self.nodes:
                node.attach()
            self.a1, self.a2 = self.a.add_pod("a1", 1), self.a.add_pod("a2", 2)
            self.b1 = self.b.add_pod("b1", 1)
            for node in self.nodes:
                node.know(self.nodes)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()


@contextmanager
def mounted_bpffs() -> Iterator[Path]:
    """A bpffs of its own."""
    path = Path(tempfile.mkdtemp(prefix=f"stentor-bpf-{os.getpid()}-"))
    subprocess.run(["mount", "-t", "bpf", "bpf", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)
        path.rmdir()
