"""Services in the API server: addresses, families and node ports; what updates keep; Kubernetes' words for what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiservers.memory import Memory
from stentor.apiserver.allocation import NODE_PORTS, Allocator
from stentor.apiserver.errors import Invalid

PORTS = [{"port": 80}]
PREFER_DUAL = {"ipFamilyPolicy": "PreferDualStack"}
DNS = [
    {"name": "dns", "port": 53, "protocol": "UDP"},
    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    {"name": "metrics", "port": 9153, "protocol": "TCP"},
]


@pytest.fixture
async def dual() -> AsyncIterator[Memory]:
    """A server for a cluster of both families."""
    server = await Memory("10.96.0.0/16", "fd00:96::/112").start()
    yield server
    server.store.close()


def service(name: str = "s", annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    meta = {"name": name} | ({"annotations": annotations} if annotations else {})
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": PORTS, **spec}}


def allocate(allocator: Allocator, name: str, **spec: Any) -> tuple[dict[str, Any], list[str]]:
    full = {"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}], **spec}
    causes = allocator.allocate(("ns", name), full, None)
    if not causes:
        allocator.claim(("ns", name), full)
    return full, [c.field for c in causes]


def test_addresses_are_never_given_twice_and_run_out() -> None:
    allocator = Allocator(["10.0.0.0/28"])
    given = [allocate(allocator, f"s{n}")[0]["clusterIP"] for n in range(14)]
    assert len(set(given)) == 14
    assert not {"10.0.0.0", "10.0.0.15"} & set(given)
    assert allocate(allocator, "more")[1] == ["spec.clusterIPs"]
    allocator.release(("ns", "s3"), {"clusterIPs": [given[3]]})
    assert allocate(allocator, "more")[0]["clusterIP"] == given[3]


def test_dual_stack_needs_two_families() -> None:
    assert allocate(Allocator(["10.0.0.0/24"]), "s", ipFamilyPolicy="RequireDualStack")[1] == ["spec.ipFamilyPolicy"]
    assert allocate(Allocator(["10.0.0.0/24"]), "s", ipFamilyPolicy="PreferDualStack")[0]["ipFamilies"] == ["IPv4"]
    assert allocate(Allocator(["10.0.0.0/24"]), "s", ipFamilies=["IPv6"])[1] == ["spec.ipFamilies[0]"]
    both = Allocator(["fd00::/112", "10.0.0.0/24"])
    assert allocate(both, "s", ipFamilyPolicy="PreferDualStack")[0]["ipFamilies"] == ["IPv6", "IPv4"]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_node_ports_are_unique(steps: list[tuple[int, bool]]) -> None:
    allocator = Allocator(["10.0.0.0/24"])
    held: dict[int, dict[str, Any]] = {}
    for name, release in steps:
        if release and name in held:
            allocator.release(("ns", str(name)), held.pop(name))
        elif name not in held:
            held[name] = allocate(allocator, str(name), type="NodePort")[0]
    ports = [p["nodePort"] for spec in held.values() for p in spec["ports"]]
    assert len(set(ports)) == len(ports)


def test_node_ports_run_out() -> None:
    allocator = Allocator(["10.0.0.0/16"])
    ports = [{"port": n, "protocol": "TCP", "name": f"p{n}"} for n in range(1, len(NODE_PORTS) + 1)]
    assert allocate(allocator, "all", type="NodePort", ports=ports)[1] == []
    assert allocate(allocator, "more", type="NodePort")[1] == ["spec.ports"]
    assert allocate(allocator, "plain")[1] == []


def test_a_local_load_balancer_gets_a_port_for_health_checks() -> None:
    allocator = Allocator(["10.0.0.0/24"])
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    made, _ = allocate(allocator, "a", **local)
    assert made["healthCheckNodePort"] in NODE_PORTS
    assert made["healthCheckNodePort"] != made["ports"][0]["nodePort"]
    assert allocate(allocator, "b", **local, healthCheckNodePort=made["healthCheckNodePort"])[1] == [
        "spec.healthCheckNodePort"
    ]
    assert "healthCheckNodePort" not in allocate(allocator, "c", type="LoadBalancer")[0]


OUTSIDE = "provided port is not in the valid range. The range of valid ports is 30000-32767"
NOT_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
NOT_RANGE = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
RANGES_NOTE = "service.beta.kubernetes.io/load-balancer-source-ranges"
ONLY_BALANCERS = "Forbidden: may only be used when `type` is 'LoadBalancer'"
NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric"
    " character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    " '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
PORT_NAME = (
    "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), and at least one letter or number"
    " (a-z, 0-9)"
)


def kind(name: str, **more: Any) -> dict[str, Any]:
    return {"type": name, **more}


@pytest.mark.parametrize(
    ("spec", "complaints"),
    [
        ({"ports": []}, ["spec.ports: Required value"]),
        (
            {"ports": [{"port": 80, "targetPort": "far-too-long-a-name"}]},
            ['spec.ports[0].targetPort: Invalid value: "far-too-long-a-name": must be no more than 15 characters'],
        ),
        (
            {"ports": [{"port": 80, "targetPort": "Web_1"}]},
            [f'spec.ports[0].targetPort: Invalid value: "Web_1": {PORT_NAME}'],
        ),
        (
            {"ports": [{"port": 80, "appProtocol": "a b"}]},
            [f'spec.ports[0].appProtocol: Invalid value: "a b": {NAME_PART}'],
        ),
        (
            {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]},
            ['spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}'],
        ),
        (
            {"externalIPs": ["x", "127.0.0.1", "::", "169.254.1.1", "fe80::1", "224.0.0.1", "ff02::1", "192.0.2.1"]},
            [
                f'spec.externalIPs[0]: Invalid value: "x": {NOT_ADDRESS}',
                'spec.externalIPs[1]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8,'
                " ::1/128)",
                'spec.externalIPs[2]: Invalid value: "::": may not be unspecified (::)',
                'spec.externalIPs[3]: Invalid value: "169.254.1.1": may not be in the link-local range'
                " (169.254.0.0/16, fe80::/10)",
                'spec.externalIPs[4]: Invalid value: "fe80::1": may not be in the link-local range (169.254.0.0/16,'
                " fe80::/10)",
                'spec.externalIPs[5]: Invalid value: "224.0.0.1": may not be in the link-local multicast range'
                " (224.0.0.0/24, ff02::/10)",
                'spec.externalIPs[6]: Invalid value: "ff02::1": may not be in the link-local multicast range'
                " (224.0.0.0/24, ff02::/10)",
            ],
        ),
        (kind("ExternalName"), ["spec.externalName: Required value"]),
        (
            kind("ExternalName", externalName="a.b", clusterIPs=["None"], ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack"),
            [
                f"spec.{field}: Forbidden: may not be set for ExternalName services"
                for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy")
            ],
        ),
        (
            kind("LoadBalancer", ports=[{"port": 10250}]),
            [
                "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet"
            ],
        ),
        (
            {"allocateLoadBalancerNodePorts": False, "loadBalancerClass": "a/b", "loadBalancerSourceRanges": ["10.0.0.0/8"]},
            [
                f"spec.LoadBalancerSourceRanges: {ONLY_BALANCERS}",
                f"spec.allocateLoadBalancerNodePorts: {ONLY_BALANCERS}",
                f"spec.loadBalancerClass: {ONLY_BALANCERS}",
            ],
        ),
        (
            kind("LoadBalancer", loadBalancerClass="a b"),
            [f'spec.loadBalancerClass: Invalid value: "a b": {NAME_PART}'],
        ),
        (
            kind("LoadBalancer", loadBalancerSourceRanges=["10.0.0.0/8", " 10.1.2.3/16 ", "10.0.0.1", "x"]),
            [
                f'spec.LoadBalancerSourceRanges[2]: Invalid value: "10.0.0.1": {NOT_RANGE}',
                f'spec.LoadBalancerSourceRanges[3]: Invalid value: "x": {NOT_RANGE}',
            ],
        ),
        (
            kind("NodePort", clusterIP="None"),
            ['spec.clusterIPs[0]: Invalid value: "None": may not be set to \'None\' for NodePort services'],
        ),
        (
            {"externalTrafficPolicy": "Local"},
            [
                'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services'
            ],
        ),
        (
            kind("NodePort", healthCheckNodePort=31000),
            [
                "spec.healthCheckNodePort: Invalid value: 31000: may only be set when `type` is 'LoadBalancer' and"
                " `externalTrafficPolicy` is 'Local'"
            ],
        ),
        (
            kind("LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=80),
            [
                "spec.healthCheckNodePort: Invalid value: 80: failed to allocate requested HealthCheck NodePort 80:"
                f" {OUTSIDE}"
            ],
        ),
        (
            {"trafficDistribution": "PreferMoon"},
            [
                'spec.trafficDistribution: Unsupported value: "PreferMoon": supported values: "PreferClose",'
                ' "PreferSameNode", "PreferSameZone"'
            ],
        ),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            [
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and"
                " less than 86400"
            ],
        ),
        (kind("NodePort", ports=[{"port": 80, "nodePort": 80}]), [f"spec.ports[0].nodePort: Invalid value: 80: {OUTSIDE}"]),
        (
            {"ports": [{"port": 80, "nodePort": 30080}]},
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            {"clusterIP": "1.2.3.4"},
            [
                'spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to allocate IP 1.2.3.4: the provided network does'
                " not match the current range"
            ],
        ),
        (
            {"clusterIP": "10.96.0.1"},
            [
                'spec.clusterIPs: Invalid value: ["10.96.0.1"]: failed to allocate IP 10.96.0.1: provided IP is already'
                " allocated"
            ],
        ),
        ({"clusterIP": "x"}, [f'spec.clusterIPs[0]: Invalid value: "x": {NOT_ADDRESS}']),
        (
            {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.8"]},
            ['spec.clusterIPs: Invalid value: ["10.96.0.8"]: first value must match `clusterIP`'],
        ),
        (
            {"clusterIPs": ["10.96.0.8"]},
            ['spec.clusterIPs: Invalid value: ["10.96.0.8"]: must be empty when `clusterIP` is not specified'],
        ),
        (
            {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7", "10.96.0.8"], **PREFER_DUAL},
            ['spec.clusterIPs: Invalid value: ["10.96.0.7","fd00:96::7","10.96.0.8"]: may only hold up to 2 values'],
        ),
        (
            {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "10.96.0.8"], **PREFER_DUAL},
            [
                'spec.clusterIPs: Invalid value: ["10.96.0.7","10.96.0.8"]: may specify no more than one IP for each IP'
                " family"
            ],
        ),
        (
            {"clusterIP": "None", "clusterIPs": ["None", "10.96.0.8"]},
            ["spec.clusterIPs: Invalid value: [\"None\",\"10.96.0.8\"]: 'None' must be the first and only value"],
        ),
        (
            {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"},
            [
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack'"
                " when multiple IP families are specified"
            ],
        ),
        (
            {"ipFamilies": ["IPv5"]},
            ['spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"'],
        ),
        (
            {"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"},
            ['spec.ipFamilies[1]: Duplicate value: "IPv4"'],
        ),
        (
            {"ipFamilies": ["IPv6"], "clusterIP": "10.96.0.60"},
            [
                'spec.clusterIPs[0]: Invalid value: "10.96.0.60": expected an IPv6 value as indicated by `ipFamilies[0]`'
            ],
        ),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_a_service_is_said_as_kubernetes_says_it(
    dual: Memory, spec: dict[str, Any], complaints: list[str]
) -> None:
    with pytest.raises(Invalid) as caught:
        await dual.create(service(**spec))
    causes = [f"{cause['field']}: {cause['message']}" for cause in caught.value.details["causes"]]
    assert causes == complaints


async def test_source_ranges_in_the_old_annotation_are_read(dual: Memory) -> None:
    with pytest.raises(Invalid, match="must be a comma-separated list of CIDRs"):
        await dual.create(service(annotations={RANGES_NOTE: "10.0.0.0/8,x"}, type="LoadBalancer"))
    with pytest.raises(Invalid, match="may only be used when `type` is 'LoadBalancer'"):
        await dual.create(service(annotations={RANGES_NOTE: "10.0.0.0/8"}))
    assert await dual.create(service(annotations={RANGES_NOTE: "10.0.0.0/8, 10.1.0.0/16"}, type="LoadBalancer"))


async def test_a_refused_update_frees_and_takes_nothing(dual: Memory) -> None:
    made = (await dual.create(service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}])))["spec"]
    with pytest.raises(Invalid):
        await dual.patch("Service", "s", {"spec": {"type": "ClusterIP", "sessionAffinity": "Moon"}})
    with pytest.raises(Invalid):
        await dual.patch("Service", "s", {"spec": {"ports": [{"port": 80, "nodePort": 30081}, {"port": 80}]}})
    with pytest.raises(Invalid, match="provided port is already allocated"):
        await dual.create(service("t", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    with pytest.raises(Invalid, match="provided IP is already allocated"):
        await dual.create(service("t", clusterIP=made["clusterIP"]))
    assert await dual.create(service("t", type="NodePort", ports=[{"port": 80, "nodePort": 30081}]))


async def test_a_freed_node_port_is_anothers(dual: Memory) -> None:
    await dual.create(service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    await dual.patch("Service", "s", {"spec": {"ports": [{"port": 80, "nodePort": 30081}]}})
    assert await dual.create(service("t", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))


async def test_tcp_and_udp_of_one_number_share_a_node_port(dual: Memory) -> None:
    udp, tcp, metrics = (await dual.create(service(type="NodePort", ports=DNS)))["spec"]["ports"]
    assert udp["nodePort"] == tcp["nodePort"] != metrics["nodePort"]
    named = [DNS[0], {**DNS[1], "nodePort": 30053}]
    assert [
        p["nodePort"] for p in (await dual.create(service("named", type="NodePort", ports=named)))["spec"]["ports"]
    ] == [30053] * 2


async def test_a_port_keeps_its_node_port_by_its_name(dual: Memory) -> None:
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    made = (await dual.create(service(type="NodePort", ports=ports)))["spec"]["ports"]
    moved = [{"name": "b", "port": 8081, "protocol": "UDP"}, {"name": "c", "port": 80}]
    found = (await dual.update(service(type="NodePort", ports=moved)))["spec"]["ports"]
    assert found[0]["nodePort"] == made[1]["nodePort"]
    assert found[1]["nodePort"] not in {port["nodePort"] for port in made}


async def test_a_balancer_may_do_without_node_ports(dual: Memory) -> None:
    made = await dual.create(service(type="LoadBalancer", allocateLoadBalancerNodePorts=False))
    assert "nodePort" not in made["spec"]["ports"][0]
    given = [{"port": 80, "nodePort": 30080}]
    kept = await dual.patch("Service", "s", {"spec": {"ports": given}})
    assert kept["spec"]["ports"][0]["nodePort"] == 30080
    freed = await dual.update(service(type="LoadBalancer", allocateLoadBalancerNodePorts=False))
    assert "nodePort" not in freed["spec"]["ports"][0]


async def test_types_change_in_a_circle(dual: Memory) -> None:
    made = (await dual.create(service(ports=DNS, ipFamilyPolicy="PreferDualStack")))["spec"]
    exposed = (await dual.patch("Service", "s", {"spec": {"type": "NodePort"}}))["spec"]
    assert exposed["clusterIPs"] == made["clusterIPs"]
    assert exposed["externalTrafficPolicy"] == "Cluster"
    change = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerClass": "a.b/c"}
    balanced = (await dual.patch("Service", "s", {"spec": change}))["spec"]
    assert balanced["ports"] == exposed["ports"]
    assert balanced["healthCheckNodePort"] in NODE_PORTS
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    lit = await dual.patch("Service", "s", status, sub="status")
    assert lit["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1", "ipMode": "VIP"}]
    named = await dual.patch("Service", "s", {"spec": {"type": "ExternalName", "externalName": "example.org."}})
    assert named["status"]["loadBalancer"] == {}
    assert set(named["spec"]) == {"type", "externalName", "ports", "sessionAffinity", "internalTrafficPolicy"}
    assert not any("nodePort" in port for port in named["spec"]["ports"])
    plain = (await dual.patch("Service", "s", {"spec": {"type": "ClusterIP", "externalName": None}}))["spec"]
    assert (len(plain["clusterIPs"]), plain["ipFamilyPolicy"]) == (1, "SingleStack")
    other = service("t", clusterIP=next(a for a in made["clusterIPs"] if a not in plain["clusterIPs"] and "." in a))
    assert await dual.create(other)


async def test_families_come_and_go_behind_the_first(dual: Memory) -> None:
    single = (await dual.create(service()))["spec"]
    both = (await dual.patch("Service", "s", {"spec": {"ipFamilyPolicy": "RequireDualStack"}}))["spec"]
    assert (both["clusterIPs"][0], both["ipFamilies"]) == (single["clusterIP"], ["IPv4", "IPv6"])
    for change, words in (
        ({"ipFamilies": ["IPv4"]}, "must be 'SingleStack' to release the secondary IP family"),
        ({"clusterIPs": both["clusterIPs"][:1]}, "must be 'SingleStack' to release the secondary cluster IP"),
        ({"ipFamilies": ["IPv6", "IPv4"]}, "expected an IPv6 value as indicated by `ipFamilies"),
        ({"clusterIP": "10.96.0.77"}, r"spec.clusterIPs\[0\]: Invalid value: .* may not change once set"),
        ({"clusterIP": "None"}, r"spec.clusterIPs\[0\]: Invalid value: .* may not change once set"),
    ):
        with pytest.raises(Invalid, match=words):
            await dual.patch("Service", "s", {"spec": change})
    again = (await dual.patch("Service", "s", {"spec": {"ipFamilyPolicy": "SingleStack"}}))["spec"]
    assert (again["clusterIPs"], again["ipFamilies"]) == (single["clusterIPs"], ["IPv4"])
    assert await dual.create(service("t", ipFamilies=["IPv6"], clusterIP=both["clusterIPs"][1]))


async def test_a_headless_service_without_a_selector_is_of_both_families(memory: Memory) -> None:
    made = (await memory.create(service(clusterIP="None")))["spec"]
    assert (made["ipFamilies"], made["ipFamilyPolicy"]) == (["IPv4", "IPv6"], "RequireDualStack")
    selecting = (await memory.create(service("t", clusterIP="None", selector={"a": "b"})))["spec"]
    assert (selecting["ipFamilies"], selecting["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")


async def test_a_balancers_class_and_port_for_health_checks_stay(dual: Memory) -> None:
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    made = (await dual.create(service(**local)))["spec"]
    assert (await dual.update(service(**local)))["spec"] == made
    with pytest.raises(Invalid, match="cannot change healthCheckNodePort on loadBalancer service"):
        await dual.patch("Service", "s", {"spec": {"healthCheckNodePort": made["healthCheckNodePort"] - 1}})
    with pytest.raises(Invalid, match=r'spec.loadBalancerClass: Invalid value: "a/b": may not change once set'):
        await dual.patch("Service", "s", {"spec": {"loadBalancerClass": "a/b"}})
    cluster = (await dual.patch("Service", "s", {"spec": {"externalTrafficPolicy": "Cluster"}}))["spec"]
    assert "healthCheckNodePort" not in cluster


async def test_a_service_keeps_what_it_was_given(memory: Memory) -> None:
    made = await memory.create(service(type="NodePort"))
    again = await memory.update(service(type="NodePort"))
    assert again["spec"] == made["spec"]
