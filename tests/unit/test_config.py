"""Configuration: layers of values, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from stentor.runtime.config import ConfigError, load


def test_later_values_win_level_by_level(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("cluster: {name: one, id: 1}\nMTU: 1400\n")
    second.write_text("cluster: {id: 2}\n")
    values = load([first, second], ["ipv6.enabled=true"])
    assert (values.cluster.name, values.cluster.id, values.mtu, values.ipv6.enabled) == ("one", 2, 1400, True)


@pytest.mark.parametrize(
    ("setting", "key", "says"),
    [
        ("ipma.mode=x", "ipma", "did you mean ipam?"),
        ("bpf.ctTcpMx=3", "bpf.ctTcpMx", "did you mean bpf.ctTcpMax?"),
        ("ipam.mode=eni", "ipam.mode", "cluster-pool, kubernetes"),
        ("cluster.id=abc", "cluster.id", "Expected `int`"),
        ("cluster.id=256", "cluster.id", "from 0 to 255"),
        ("cluster.name=Upper", "cluster.name", "lower case"),
        ("bpf.masquerade=false", "bpf.masquerade", "no iptables mode"),
        ("kubeProxyReplacement=false", "kubeProxyReplacement", "no other proxy"),
        ("ipv4.enabled=false", "ipv4.enabled", "at least one"),
        ("identityChangeGracePeriod=soon", "identityChangeGracePeriod", "is no duration"),
        ("operator.identityGCInterval=", "operator.identityGCInterval", "is no duration"),
        ("operator.endpointGCInterval=5", "operator.endpointGCInterval", "Expected `str`"),
        ("ipv4NativeRoutingCIDR=10.0.0.0/33", "ipv4NativeRoutingCIDR", "'33' is not a valid netmask"),
        ("ipv6NativeRoutingCIDR=10.0.0.0/8", "ipv6NativeRoutingCIDR", "'10.0.0.0'"),
        ("operator.prometheus.port=0", "operator.prometheus.port", "from 1 to 65535"),
        ("bpf.ctTcpMax=0", "bpf.ctTcpMax", "at least 1"),
        ("ipam.operator.clusterPoolIPv4PodCIDRList=[]", "ipam.operator.clusterPoolIPv4PodCIDRList", "empty"),
        ("clustermesh.maxConnectedClusters=300", "clustermesh.maxConnectedClusters", "255 or 511"),
        (
            "ipam.operator.clusterPoolIPv4PodCIDRList=[10.1.2.3/8]",
            "ipam.operator.clusterPoolIPv4PodCIDRList[0]",
            "host bits",
        ),
        (
            "ipam.operator.clusterPoolIPv6PodCIDRList=[10.0.0.0/8]",
            "ipam.operator.clusterPoolIPv6PodCIDRList[0]",
            "not IPv6",
        ),
        ("ipam.operator.clusterPoolIPv4MaskSize=7", "ipam.operator.clusterPoolIPv4MaskSize", "does not fit"),
        ("loadBalancer.mode=dsr", "loadBalancer.mode", "'dsr'"),
        ("loadBalancer.dsrDispatch=geneve", "loadBalancer.dsrDispatch", "opt"),
        ("maglev.tableSize=1000", "maglev.tableSize", "16381"),
        ("maglev.hashSeed=abcd", "maglev.hashSeed", "12 bytes"),
        ('nodePort.range="30000"', "nodePort.range", "30000,32767"),
        ("nodePort.addresses=[10.0.0.0/8, x]", "nodePort.addresses[1]", "x"),
        ("loadBalancer.acceleration=fast", "loadBalancer.acceleration", "best-effort"),
        ("serviceNoBackendResponse=ignore", "serviceNoBackendResponse", "reject, drop"),
        ('nodePort.range="5,4"', "nodePort.range", "no range"),
        ("kubeProxyReplacementHealthzBindAddr=x", "kubeProxyReplacementHealthzBindAddr", "ADDRESS:PORT"),
        ("defaultLBServiceIPAM=nodeipam", "defaultLBServiceIPAM", "lbipam, none"),
        ("bgpControlPlane.routerIDAllocation.mode=mac", "bgpControlPlane.routerIDAllocation.mode", "default, ip-pool"),
        ("bgpControlPlane.routerIDAllocation.mode=ip-pool", "bgpControlPlane.routerIDAllocation.ipPool", "IPv4 prefix"),
        ("bgpControlPlane.routerIDAllocation.ipPool=fd00::/64", "bgpControlPlane.routerIDAllocation.ipPool", "IPv4"),
        ("bgpControlPlane.secretsNamespace.name=A_b", "bgpControlPlane.secretsNamespace.name", "no name"),
        ("l2announcements.leaseDuration=5s", "l2announcements.leaseDuration", "longer than leaseRenewDeadline (5s)"),
        ("l2announcements.leaseRetryPeriod=4500ms", "l2announcements.leaseRenewDeadline", "at least 1.2 times"),
        ("l2announcements.leaseRetryPeriod=0s", "l2announcements.leaseRetryPeriod", "above 0"),
        ("tunnelPort=70000", "tunnelPort", "from 1 to 65535"),
    ],
)
def test_a_wrong_value_names_its_key(setting: str, key: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(settings=[setting])
    assert caught.value.key == key
    assert says in str(caught.value)


@pytest.mark.parametrize("setting", ["novalue", "=x", "a..b=1"])
def test_a_setting_has_the_form_a_b_c(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form a\.b=c"):
        load(settings=[setting])


def test_a_file_that_is_no_mapping_is_named(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("- a\n")
    with pytest.raises(ConfigError, match=r"values\.yaml: values are a mapping"):
        load([file])
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load([file])
    with pytest.raises(ConfigError, match="No such file"):
        load([tmp_path / "none.yaml"])
