"""Two nodes and two routers on one network, BIRD on `tor-1`, their default gateway with a client behind it, and FRR on `tor-2`,
which has a wire of its own to `node-1`."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from labs.lab import Lab, eventually

NODES = {"node-1": {4: "172.22.0.11", 6: "fd00:22::11"}, "node-2": {4: "172.22.0.12", 6: "fd00:22::12"}}
TOR_1 = {4: "172.22.0.5", 6: "fd00:22::5"}
TOR_2 = {4: "172.22.0.6", 6: "fd00:22::6"}
CLIENT = {4: "192.168.77.2", 6: "fd00:77::2"}
LOCAL_ASN, TOR_1_ASN, TOR_2_ASN = 65100, 6500, 6600

# A name's length limits nothing here; `passive` makes who connects plain: the node.
_BIRD_PEER = """protocol bgp {name} from node {{ neighbor {address} as 65100; {options} }}
"""
_BIRD = """router id 172.22.0.5;
protocol device {}
protocol direct { ipv4; ipv6; interface "eth1"; }
protocol kernel { ipv4 { export where source = RTS_BGP; import none; }; merge paths on; }
protocol kernel { ipv6 { export where source = RTS_BGP; import none; }; merge paths on; }
protocol bfd { interface "eth0" { min rx interval 300 ms; min tx interval 300 ms; }; }
template bgp node {
  local as 6500; passive yes; graceful restart on; bfd on; error wait time 1, 2;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
"""
_FRR = """router bgp 6600
 bgp router-id 172.22.0.6
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
 neighbor nodes peer-group
 neighbor nodes remote-as 65100
 neighbor nodes passive
 neighbor 172.22.0.11 peer-group nodes
 neighbor 172.22.0.12 peer-group nodes
 neighbor eth1 interface remote-as 65100
 address-family ipv4 unicast
  neighbor nodes activate
  neighbor eth1 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor nodes activate
  neighbor eth1 activate
 exit-address-family
"""

_START_ZEBRA = """install -d -o frr -g frr /run/frr; install -o frr -g frr /dev/null /etc/frr/zebra.conf
exec /usr/lib/frr/zebra -f /etc/frr/zebra.conf -A 127.0.0.1"""
_START_BGPD = """until [ -S /run/frr/zserv.api ]; do sleep 0.05; done; chown frr:frr /etc/frr/bgpd.conf
exec /usr/lib/frr/bgpd -f /etc/frr/bgpd.conf -A 127.0.0.1"""


def bird(options: str = "") -> str:
    """BIRD's configuration with more options for the sessions with the nodes."""
    peers = (
        _BIRD_PEER.format(name=name.replace("-", ""), address=addresses[4], options=options)
        for name, addresses in NODES.items()
    )
    return _BIRD + "".join(peers)


def topology(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The lab; `values` are more of the cluster's."""
    routers = [
        {
            "name": "tor-1",
            "networks": [
                {"name": "fabric", "addresses": list(TOR_1.values())},
                {"name": "outside", "addresses": ["192.168.77.1", "fd00:77::1"]},
            ],
            "forward": True,
            "files": {"/etc/bird/bird.conf": bird()},
            "run": [["bird", "-f", "-c", "/etc/bird/bird.conf", "-s", "/run/bird.ctl"]],
        },
        {
            "name": "tor-2",
            "networks": [{"name": "fabric", "addresses": list(TOR_2.values())}, {"name": "wire"}],
            "forward": True,
            "files": {"/etc/frr/bgpd.conf": _FRR},
            "run": [["sh", "-c", _START_ZEBRA], ["sh", "-c", _START_BGPD]],
        },
    ]
    client = {
        "name": "client",
        "networks": [{"name": "outside", "addresses": list(CLIENT.values())}],
        "run": [["sleep", "100000"]],
    }
    cluster = {
        "name": "c1",
        "values": {"bgpControlPlane": {"enabled": True}} | (values or {}),
        "nodes": [
            {
                "name": name,
                "networks": [
                    {"name": "fabric", "addresses": list(addresses.values())},
                    *([{"name": "wire"}] if name == "node-1" else []),
                ],
            }
            for name, addresses in NODES.items()
        ],
    }
    nets = [
        {"name": "fabric", "cidrs": ["172.22.0.0/24", "fd00:22::/64"]},
        {"name": "outside", "cidrs": ["192.168.77.0/24", "fd00:77::/64"]},
        {"name": "wire", "cidrs": ["172.31.255.0/29"]},
    ]
    routes = [{"machine": "client", "to": "default", "via": via} for via in ("192.168.77.1", "fd00:77::1")]
    routes += [{"machine": node, "to": "default", "via": via} for node in NODES for via in TOR_1.values()]
    return {
        "apiVersion": "lab.stentor.io/v1",
        "kind": "Topology",
        "metadata": {"name": "fabric"},
        "spec": {"networks": nets, "clusters": [cluster], "hosts": [*routers, client], "routes": routes},
    }


class Seen:
    """A path in a router's table."""

    def __init__(self, next_hop: str, communities: set[str], large: set[str]) -> None:
        self.next_hop = next_hop
        self.communities = communities
        self.large = large


def birdc(lab: Lab, *words: str) -> str:
    """A command's answer; one that finds nothing ends with 1."""
    return lab.exec("tor-1", "birdc", "-s", "/run/bird.ctl", *words, check=False).stdout


def bird_paths(lab: Lab, prefix: str) -> dict[str, Seen]:
    """BIRD's paths to a prefix by the node that told them."""
    text = birdc(lab, "show", "route", prefix, "all", "protocol", "node1") + birdc(
        lab, "show", "route", prefix, "all", "protocol", "node2"
    )
    found: dict[str, Seen] = {}
    for part in re.split(r"\n(?=.*\[node)", text):
        name = re.search(r"\[(node)(\d)", part)
        hop = re.search(r"BGP\.next_hop: (\S+)", part)
        if name is None or hop is None or (f"{prefix} " not in part and not part.lstrip().startswith(prefix)):
            continue
        found[f"node-{name.group(2)}"] = Seen(
            hop.group(1), _tuples(part, "community"), _tuples(part, "large_community")
        )
    return found


def bird_communities(lab: Lab, prefix: str, node: str) -> set[str] | None:
    """Of a node's path to a prefix; None while there is no such path."""
    found = bird_paths(lab, prefix).get(node)
    return found.communities if found is not None else None


def _tuples(text: str, name: str) -> set[str]:
    found = re.search(rf"BGP\.{name}: (.*)", text)
    return (
        {each.replace(" ", "").replace(",", ":") for each in re.findall(r"\(([^)]*)\)", found.group(1))}
        if found
        else set()
    )


class Moment:
    """When a session came up. BIRD's answers about one moment differ by a millisecond now and then."""

    def __init__(self, text: str) -> None:
        hours, minutes, seconds = text.split(":")
        self.seconds = (int(hours) * 60 + int(minutes)) * 60 + float(seconds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moment) and abs(self.seconds - other.seconds) < 0.01

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Moment({self.seconds:.3f})"


def bird_since(lab: Lab, node: str) -> Moment | None:
    """Since when BIRD's session with a node is up; None while it is not."""
    for line in birdc(lab, "show", "protocols", node.replace("-", "")).splitlines():
        words = line.split()
        if words and words[0] == node.replace("-", "") and "Established" in line:
            return Moment(words[4])
    return None


def up_since(lab: Lab, node: str) -> Moment:
    """As `bird_since`, once it is up."""
    found: Moment = eventually(lambda: bird_since(lab, node))
    return found


def bird_neighbor_id(lab: Lab, node: str) -> str:
    found = re.search(r"Neighbor ID:\s+(\S+)", birdc(lab, "show", "protocols", "all", node.replace("-", "")))
    return found.group(1) if found else ""


def bird_bfd(lab: Lab, node: str) -> str:
    """`Up`, `Down`, …; empty without a session."""
    for line in birdc(lab, "show", "bfd", "sessions").splitlines():
        words = line.removeprefix("1020-").split()
        if words and words[0] == NODES[node][4]:
            return words[2]
    return ""


def frr(lab: Lab, command: str) -> Any:
    """A command's answer, empty while there is none."""
    text = lab.exec("tor-2", "vtysh", "-c", f"{command} json", check=False).stdout
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {}


def frr_paths(lab: Lab, prefix: str) -> set[str]:
    """Who told FRR about a prefix, by address."""
    family = "ipv6" if ":" in prefix else "ipv4"
    paths = frr(lab, f"show bgp {family} unicast {prefix}").get("paths", [])
    return {path["peer"]["peerId"] for path in paths if path.get("valid")}


def pod_cidrs(lab: Lab, node: str) -> list[str]:
    found: list[str] = lab.objects("ciliumnode", node)["spec"]["ipam"]["podCIDRs"]
    return found


def apply(lab: Lab, *objects: dict[str, Any] | str) -> None:
    documents = [each if isinstance(each, str) else yaml.safe_dump(each) for each in objects]
    lab.kubectl("apply", "--server-side", "-f", "-", input="\n---\n".join(documents))


def resource(
    kind: str, name: str, spec: dict[str, Any], version: str = "cilium.io/v2", **labels: str
) -> dict[str, Any]:
    """A custom resource."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}


_MIRROR = """
import socket, http.server as h
class Server(h.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(h.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].removeprefix("::ffff:").encode())
    def log_message(self, *_):
        pass
Server(("::", 8080), Handler).serve_forever()
"""


def mirror(name: str, node: str, app: str = "web") -> dict[str, Any]:
    """A pod that tells whoever asks on port 8080 the address that the question came from."""
    container = {"name": "c", "image": "nicolaka/netshoot", "command": ["python3", "-c", _MIRROR]}
    probe = {"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container | probe]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}}, "spec": spec}


def seen_address(lab: Lab, machine: str, host: str, port: int = 8080) -> str:
    """The address that a mirror sees of a machine; empty when nobody answers."""
    place = f"[{host}]" if ":" in host else host
    return lab.exec(machine, "curl", "-s", "-m", "2", f"http://{place}:{port}/", check=False).stdout


def give(lab: Lab, service: str, *addresses: str) -> None:
    """What an operator of load balancers would do."""
    status = {"status": {"loadBalancer": {"ingress": [{"ip": each} for each in addresses]}}}
    lab.kubectl("patch", "service", service, "--subresource=status", "--type=merge", "-p", json.dumps(status))
