"""`stentor bgp`: who is asked, and what is printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from stentor.agent.bgp_api import (
    Event,
    FamilyCount,
    PeerVerdict,
    PeerView,
    PolicyView,
    PrefixRange,
    RouteView,
    WhyList,
    WhyView,
)
from stentor.cli import bgp_table
from stentor.cli.follow import objects
from stentor.cli.main import cli
from stentor.cli.relay import AgentError

POLICY = Path(__file__).parents[3] / "examples" / "bgp-lab" / "peering-policy.yaml"


def invoke(*arguments: str, text: str = "", **environment: str | None) -> Result:
    no_cluster = {"KUBECONFIG": None, "HOME": "/nonexistent", "KUBERNETES_SERVICE_HOST": None}
    return CliRunner().invoke(cli, ["bgp", *arguments], input=text, env={**no_cluster, **environment})


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (("peers", "--socket", "/nonexistent/sock"), {}, "cannot reach the speaker at /nonexistent/sock"),
        (("peers",), {"KUBECONFIG": "/nonexistent/config"}, "/nonexistent/config"),
        (("peers", "--socket", "/x", "--node", "n1"), {}, "--socket asks one speaker"),
        (("routes", "sideways"), {}, "'sideways' is none of available, received, advertised"),
        (("routes", "peer"), {}, "'peer' is none of"),
        (("routes", "available", "peer", "tor"), {}, "`peer` goes with `advertised`"),
        (("route-policies", "peer", "x"), {}, "only `vrouter N` may follow"),
        (("convert", "-f", "/nonexistent/file"), {}, "/nonexistent/file: No such file or directory"),
    ],
)
def test_wrong_commands_say_why(arguments: tuple[str, ...], environment: dict[str, str], words: str) -> None:
    done = invoke(*arguments, **environment)
    assert done.exit_code != 0
    assert words in done.output


def peer(**fields: Any) -> PeerView:
    counts = tuple(FamilyCount(afi=afi, safi="unicast", received=1, advertised=2) for afi in ("ipv4", "ipv6"))
    known = {
        "node": "n1",
        "instance": "rack",
        "name": "tor",
        "peer_address": "10.0.0.1",
        "local_asn": 65100,
        "peer_asn": 1,
    }
    return PeerView(
        **{**known, "session_state": "established", "uptime_seconds": 3723.9, "route_count": counts, **fields}
    )


def test_peers_have_upstreams_columns_and_a_row_a_family() -> None:
    heads, rows = bgp_table.peer_table([peer()], verbose=False)
    assert heads == (
        "Node", "Local AS", "Peer AS", "Peer Address", "Session State", "Uptime", "Family", "Received", "Advertised",
    )  # fmt: skip
    assert rows == [
        ["n1", "65100", "1", "10.0.0.1", "established", "1h2m3s", "ipv4/unicast", "1", "2"],
        ["", "", "", "", "", "", "ipv6/unicast", "1", "2"],
    ]
    assert bgp_table.peer_table([peer(node="")], verbose=False)[0][0] == "Local AS"


def test_a_peer_without_a_session_is_told_with_its_reason() -> None:
    wrong = peer(session_state="idle", route_count=(), problem="Secret kube-system/key does not exist")
    down = peer(session_state="active", last_error="hold timer expired")
    recovered = peer(last_error="hold timer expired")
    assert list(bgp_table.peer_troubles([wrong, down, recovered])) == [
        "n1: peer tor (10.0.0.1): Secret kube-system/key does not exist",
        "n1: peer tor (10.0.0.1): hold timer expired",
    ]
    assert bgp_table.peer_table([wrong], verbose=True)[1][0][-1] == "Secret kube-system/key does not exist"


ROUTE = RouteView(
    node="n1", instance="rack", vrouter=65100, peer="10.0.0.1", prefix="203.0.113.1/32", next_hop="10.0.0.2",
    source="local", age_seconds=61, as_path="65100", local_preference=100, communities=("65000:1", "no-export"),
)  # fmt: skip


def test_routes_have_upstreams_columns_and_notation() -> None:
    heads, (row,) = bgp_table.route_table([ROUTE], is_advertised=True, verbose=False)
    assert heads == ("Node", "VRouter", "Peer", "Prefix", "NextHop", "Age", "Attrs")
    attributes = "[{Origin: i} {AsPath: 65100} {Nexthop: 10.0.0.2} {LocalPref: 100} {Communities: 65000:1, no-export}]"
    assert row == ["n1", "65100", "10.0.0.1", "203.0.113.1/32", "10.0.0.2", "1m1s", attributes]
    assert bgp_table.route_table([], is_advertised=False, verbose=False)[0] == (
        "VRouter",
        "Prefix",
        "NextHop",
        "Age",
        "Attrs",
    )


def test_policies_have_upstreams_columns() -> None:
    policy = PolicyView(
        node="n1", instance="rack", vrouter=65100, name="rack/tor/ipv4", statement="fabric[0]", type="export",
        match_peers=("10.0.0.1",), match_families=("ipv4/unicast",), match_advertisements=("fabric[0]",),
        match_prefixes=(PrefixRange(prefix="10.1.0.0/24", min_length=24, max_length=24),), path_actions=("localPreference 9",),
    )  # fmt: skip
    heads, (row,) = bgp_table.policy_table([policy])
    assert heads[1:] == (
        "VRouter", "Policy Name", "Type", "Match Peers", "Match Families", "Match Prefixes (Min..Max Len)", "RIB Action",
        "Path Actions",
    )  # fmt: skip
    assert row[6] == "10.1.0.0/24 (24..24)\nfabric[0]"


def test_why_tells_every_step() -> None:
    view = WhyView(
        node="n1", instance="rack", vrouter=65100, prefix="203.0.113.1/32", origins=("Service default/web by fabric[1]",),
        obstacles=("Service default/web: no ready endpoint",), paths=(ROUTE,), rejected=("tor: import policy rejects",),
        peers=(PeerVerdict(peer="10.0.0.1", name="tor", advertised=False, reason="not advertised: no session"),),
    )  # fmt: skip
    answers = [
        WhyList(node="n1", enabled=True, prefix="203.0.113.1/32", explanations=(view,)),
        WhyList(node="n2", enabled=True, prefix="203.0.113.1/32", obstacles=("no policy selects this node",)),
    ]
    assert bgp_table.explanation(answers).splitlines() == [
        "n1: 203.0.113.1/32 in instance rack (AS 65100)",
        "  asked for by Service default/web by fabric[1]",
        "  kept back: Service default/web: no ready endpoint",
        f"  path from local via 10.0.0.2: best {bgp_table.attributes(ROUTE)}",
        "  rejected from tor: import policy rejects",
        "  to tor (10.0.0.1): not advertised: no session",
        "",
        "n2: 203.0.113.1/32 is not advertised: no policy selects this node",
    ]
    assert "n1" not in bgp_table.explanation(answers, "other")


def test_an_event_is_a_line() -> None:
    line = bgp_table.event_line(Event(node="n1", time=0.25, kind="session", instance="rack", peer="tor", text="up"))
    assert line.endswith(".250 n1 session  rack/tor: up")


@given(st.lists(st.integers(1, 60)), st.lists(st.dictionaries(st.sampled_from("ab"), st.text()), max_size=4))
def test_a_stream_may_come_in_any_pieces(cuts: list[int], sent: list[dict[str, str]]) -> None:
    body = b"".join(json.dumps(each).encode() + b"\n" for each in sent)
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n" + body

    async def chunks() -> AsyncIterator[bytes]:
        rest = raw
        for cut in cuts:
            yield rest[:cut]
            rest = rest[cut:]
        yield rest

    async def read() -> list[Any]:
        return [each async for each in objects(chunks())]

    assert asyncio.run(read()) == sent


def test_a_refused_stream_is_an_error() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 15\r\n\r\n{"error": "no"}'

    async def read() -> None:
        async for _ in objects(chunks()):
            raise AssertionError

    with pytest.raises(AgentError, match="no"):
        asyncio.run(read())


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_convert_writes_manifests(output: str) -> None:
    done = invoke("convert", "-f", str(POLICY), "-o", output)
    assert done.exit_code == 0, done.output
    documents = json.loads(done.output)["items"] if output == "json" else list(yaml.safe_load_all(done.output))
    assert [each["kind"] for each in documents] == [
        "CiliumBGPAdvertisement",
        "CiliumBGPPeerConfig",
        "CiliumBGPClusterConfig",
    ]
    (instance,) = documents[-1]["spec"]["bgpInstances"]
    assert [each["peerAddress"] for each in instance["peers"]] == ["172.20.1.1", "172.20.1.2"]
    assert "&" not in done.output


def test_convert_takes_lists_from_standard_input_and_names_what_is_lost() -> None:
    policy = yaml.safe_load(POLICY.read_text())
    policy["spec"]["virtualRouters"][0]["neighbors"][0]["peerAddress"] = "172.20.1.0/24"
    node = {
        "kind": "Node",
        "metadata": {"name": "n1", "annotations": {"cilium.io/bgp-virtual-router.65100": "local-port=179"}},
    }
    node["metadata"]["labels"] = {"kubernetes.io/os": "linux"}  # type: ignore[index]
    done = invoke("convert", "-f", "-", text=yaml.safe_dump({"kind": "List", "items": [policy, node]}))
    assert "localPort: 179" in done.output
    assert "spec.virtualRouters[0].neighbors[0].peerAddress: '172.20.1.0/24' is not" in done.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"),
        ("[]", "a document is no object"),
        ("{kind: Pod}", "no CiliumBGPPeeringPolicy"),
        ("{kind: CiliumBGPPeeringPolicy, metadata: {name: p}, spec: {virtualRouters: [{localASN: x}]}}", "localASN"),
    ],
)
def test_convert_says_what_is_wrong(text: str, words: str) -> None:
    done = invoke("convert", "-f", "-", text=text)
    assert done.exit_code == 1
    assert words in done.output
