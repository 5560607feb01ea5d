"""The rules that kube-proxy writes on a node, as text: what services cost without us.

Chains, their hooks, priorities and order are those of its nftables mode and of its iptables mode with more than a thousand
endpoints, where it leaves comments out of a service's own chains; like there, only iptables counts, since it cannot help it.
Every service is a ClusterIP with one endpoint of its own: did several share one, a client's ports would clash there after DNAT,
which costs conntrack a search. The text stands for the whole table, or adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ENDPOINTS: Final = {"near": "10.1.1.0/24", "far": "10.2.1.0/24"}  # by where they are, seen from the client
FIRST_PORT, ADDRESSES = 8080, 200  # an endpoint is a port of one of so many addresses
PODS, SERVICES, NODE = "10.0.0.0/12", "10.96.0.0/12", "192.0.2.1"
_TABLE: Final = "ip kube-proxy"


def vip(number: int) -> str:
    return f"10.{96 + number // 62_500}.{number % 62_500 // 250}.{number % 250 + 1}"


def address(place: str, number: int) -> str:
    return ENDPOINTS[place].replace("0/24", str(number + 1))


def endpoint(number: int) -> tuple[str, int]:
    """Address and port of the only endpoint of service `number`: near if that is even, far if it is odd."""
    which, odd = divmod(number, 2)
    return address("far" if odd else "near", which % ADDRESSES), FIRST_PORT + which // ADDRESSES


_NFT_SETS: Final = (
    "set cluster-ips { type ipv4_addr ; }",
    "set nodeport-ips { type ipv4_addr ; }",
    "map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }",
    "map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }",
    "map no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }",
    "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }",
    "map service-nodeports { type inet_proto . inet_service : verdict ; }",
)
_NFT_HOOKS: Final = {
    "filter-prerouting-pre-dnat": "filter hook prerouting priority -110",
    "filter-output-pre-dnat": "filter hook output priority -110",
    "filter-forward": "filter hook forward priority 0",
    "filter-input": "filter hook input priority 0",
    "filter-output": "filter hook output priority 0",
    "nat-output": "nat hook output priority -100",
    "nat-postrouting": "nat hook postrouting priority 100",
    "nat-prerouting": "nat hook prerouting priority -100",
}
_SERVICE: Final = "ip daddr . meta l4proto . th dport vmap"
_NFT_RULES: Final = {
    "reject-chain": ("reject",),
    "cluster-ips-check": ("ip daddr @cluster-ips reject", f"ip daddr {{ {SERVICES} }} drop"),
    "firewall-check": (f"{_SERVICE} @firewall-ips",),
    "nodeport-endpoints-check": ("ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",),
    "service-endpoints-check": (f"{_SERVICE} @no-endpoint-services",),
    "mark-for-masquerade": ("mark set mark or 0x4000",),
    "masquerading": ("mark and 0x4000 == 0 return", "mark set mark xor 0x4000", "masquerade fully-random"),
    "services": (
        f"{_SERVICE} @service-ips",
        "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
    ),
    "filter-prerouting-pre-dnat": ("ct state new jump firewall-check",),
    "filter-output-pre-dnat": ("ct state new jump firewall-check",),
    "filter-forward": ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    "filter-input": ("ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"),
    "filter-output": ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    "nat-output": ("jump services",),
    "nat-postrouting": ("jump masquerading",),
    "nat-prerouting": ("jump services",),
}


def nft_rules(numbers: Sequence[int], *, with_base: bool = True) -> str:
    """One look-up in a verdict map, then a chain for the service and one for the endpoint."""
    lines = _nft_base() if with_base else []
    for n in numbers:
        name, (ip, port) = f"{n:08X}-bench/service-{n}/tcp/http", endpoint(n)
        service, leads_to = f"service-{name}", f"endpoint-{name}__{ip}/{port}"
        lines += [
            f"add chain {_TABLE} {leads_to}",
            f"add rule {_TABLE} {leads_to} ip saddr {ip} jump mark-for-masquerade",
            f"add rule {_TABLE} {leads_to} meta l4proto tcp dnat to {ip}:{port}",
            f"add chain {_TABLE} {service}",
            f"add rule {_TABLE} {service} ip daddr {vip(n)} ip saddr != {PODS} jump mark-for-masquerade",
            f"add rule {_TABLE} {service} numgen random mod 1 vmap {{ 0 : goto {leads_to} }}",
            f"add element {_TABLE} cluster-ips {{ {vip(n)} }}",
            f"add element {_TABLE} service-ips {{ {vip(n)} . tcp . 80 : goto {service} }}",
        ]
    return "\n".join([*lines, ""])


def _nft_base() -> list[str]:
    lines = [f"add table {_TABLE}", f"delete table {_TABLE}", f"add table {_TABLE}"]
    for each in _NFT_SETS:
        kind, rest = each.split(" ", 1)
        lines.append(f"add {kind} {_TABLE} {rest}")
    lines += [f"add chain {_TABLE} {name} {{ type {hook} ; }}" for name, hook in _NFT_HOOKS.items()]
    lines += [f"add chain {_TABLE} {name}" for name in _NFT_RULES.keys() - _NFT_HOOKS.keys()]
    lines += [f"add rule {_TABLE} {chain} {rule}" for chain, rules in _NFT_RULES.items() for rule in rules]
    return [*lines, f"add element {_TABLE} nodeport-ips {{ {NODE} }}"]


_NAT_BASE: Final = """\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
"""
# The last of its chain.
_NODE_PORTS: Final = (
    '-A KUBE-SERVICES -m comment --comment "service nodeports" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS'
)
_FIREWALL: Final = (
    '-m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'
)
_PORTALS: Final = '-m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
_EXTERNAL: Final = (
    "-m conntrack --ctstate NEW -m comment"
    ' --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES'
)
_FILTER: Final = f"""\
*filter
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT {_FIREWALL}
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT {_EXTERNAL}
-A INPUT -j KUBE-FIREWALL
-A FORWARD {_FIREWALL}
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD {_PORTALS}
-A FORWARD {_EXTERNAL}
-A OUTPUT {_FIREWALL}
-A OUTPUT {_PORTALS}
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""


def iptables_rules(numbers: Sequence[int], *, with_base: bool = True) -> str:
    """KUBE-SERVICES → KUBE-SVC-… → KUBE-SEP-… → DNAT, for `iptables-restore`.

    To add one, kube-proxy writes the whole of KUBE-SERVICES again; here it is one rule more, in front of the others.
    """
    chains = [f":{_chain(kind, n)} - [0:0]" for n in numbers for kind in ("SVC", "SEP")]
    rules = []
    place = "-A" if with_base else "-I"
    for n in numbers:
        service, leads_to, (ip, port) = _chain("SVC", n), _chain("SEP", n), endpoint(n)
        to = f"-m tcp -p tcp -d {vip(n)}/32 --dport 80"
        comment = f'-m comment --comment "bench/service-{n}:http cluster IP"'
        rules += [
            f"{place} KUBE-SERVICES {comment} {to} -j {service}",
            f"-A {service} {comment} {to} ! -s {PODS} -j KUBE-MARK-MASQ",
            f"-A {service} -j {leads_to}",
            f"-A {leads_to} -s {ip}/32 -j KUBE-MARK-MASQ",
            f"-A {leads_to} -m tcp -p tcp -j DNAT --to-destination {ip}:{port}",
        ]
    if with_base:
        return "\n".join([_NAT_BASE.rstrip(), *chains, *rules, _NODE_PORTS, "COMMIT", _FILTER])
    return "\n".join(["*nat", *chains, *rules, "COMMIT", ""])


def _chain(kind: str, number: int) -> str:
    return f"KUBE-{kind}-{number:016X}"


def address_map_rules(numbers: Sequence[int], *, with_base: bool = True) -> str:
    """The leanest that nftables can do: one map from service to endpoint. No proxy writes it, since it balances nothing."""
    lines = []
    if with_base:
        lines = [
            "add table ip lean", "delete table ip lean", "add table ip lean",
            "add map ip lean endpoints { type ipv4_addr . inet_service : ipv4_addr . inet_service ; }",
            "add chain ip lean nat-prerouting { type nat hook prerouting priority -100 ; }",
            "add rule ip lean nat-prerouting meta l4proto tcp dnat to ip daddr . tcp dport map @endpoints",
        ]  # fmt: skip
    if numbers:
        elements = ", ".join(f"{vip(n)} . 80 : {ip} . {port}" for n in numbers for ip, port in [endpoint(n)])
        lines.append(f"add element ip lean endpoints {{ {elements} }}")
    return "\n".join([*lines, ""])
