"""Small parts: allocation, names, durations, columns, tokens, certificates, paths, CRD rules."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from apiservers.memory import CRON_TABS, Memory, cron_tab, deployment, pod
from stentor.apiserver import pki
from stentor.apiserver.column import shorten
from stentor.apiserver.command import parse
from stentor.apiserver.errors import Invalid
from stentor.apiserver.meta import check_dns1035, check_label, check_port_name, check_qualified_name, check_subdomain
from stentor.apiserver.printer import Printer, find_path
from stentor.apiserver.registry import version_rank
from stentor.apiserver.request import Target, parse_bool, parse_path
from stentor.apiserver.store import Entry
from stentor.apiserver.token import ISSUER, Bound, Claims, Signer, TokenError
from stentor.apiserver.wire import Form, NotAcceptable, choose_form, encode


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/pods", Target("", "v1", "pods")),
        ("/api/v1/namespaces", Target("", "v1", "namespaces")),
        ("/api/v1/namespaces/a", Target("", "v1", "namespaces", "", "a")),
        ("/api/v1/namespaces/a/status", Target("", "v1", "namespaces", "", "a", "status")),
        ("/api/v1/namespaces/a/pods", Target("", "v1", "pods", "a")),
        ("/api/v1/namespaces/a/pods/b/log", Target("", "v1", "pods", "a", "b", "log")),
        ("/apis/apps/v1/namespaces/a/deployments/b", Target("apps", "v1", "deployments", "a", "b")),
        ("/api/v1", None),
        ("/apis/apps/v1", None),
        ("/api/v1/namespaces/a/pods/b/c/d", None),
        ("/healthz", None),
    ],
)
def test_paths(path: str, target: Target | None) -> None:
    assert parse_path(path) == target


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("True", True), ("t", True), ("0", False), ("", False), ("yes", False)]
)
def test_booleans_are_gos(text: str, *, value: bool) -> None:
    assert parse_bool(text) is value


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.OBJECT),
        ("*/*", Form.OBJECT),
        ("application/json", Form.OBJECT),
        ("application/vnd.kubernetes.protobuf,application/json", Form.OBJECT),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Form.TABLE),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json", Form.METADATA),
    ],
)
def test_accept(accept: str, form: Form) -> None:
    assert choose_form(accept)[0] is form


def test_protobuf_only_clients_are_told() -> None:
    with pytest.raises(NotAcceptable):
        choose_form("application/vnd.kubernetes.protobuf")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (check_subdomain, ["a", "a.b-c", "1", "x" * 63], ["", "A", "-a", "a..b", "a_b", "x" * 254]),
        (check_label, ["a", "1-b"], ["a.b", "x" * 64, "a-"]),
        (check_dns1035, ["a1"], ["1a", "a.b"]),
        (check_port_name, ["http", "p-1"], ["8080", "a--b", "-a", "much-too-long-name"]),
        (check_qualified_name, ["a", "example.com/A_b.c"], ["/a", "a/", "A B", "Ex_ample/a"]),
    ],
)
def test_names(check: Callable[[str], str | None], good: list[str], bad: list[str]) -> None:
    assert [n for n in good if check(n)] == []
    assert [n for n in bad if not check(n)] == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (600, "10m"), (10799, "179m"),
        (10800, "3h"), (12000, "3h20m"), (8 * 3600, "8h"), (47 * 3600, "47h"), (50 * 3600, "2d2h"), (8 * 86400, "8d"),
        (729 * 86400, "729d"), (800 * 86400, "2y70d"), (10 * 365 * 86400, "10y"),
    ],
)  # fmt: skip
def test_durations(seconds: int, text: str) -> None:
    assert shorten(seconds) == text


def test_versions_are_ordered_by_stability() -> None:
    versions = ["v1alpha1", "foo", "v2", "v1beta1", "v10", "v1beta2", "v1"]
    assert sorted(versions, key=version_rank, reverse=True) == [
        "v10",
        "v2",
        "v1",
        "v1beta2",
        "v1beta1",
        "v1alpha1",
        "foo",
    ]


DOCUMENT = {"a": {"b.c": 1, "l": [{"t": "x", "v": 1}, {"t": "y", "v": 2}]}, "s": "text"}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".s", ["text"]),
        (".a.b\\.c", [1]),
        (".a['b.c']", [1]),
        (".a.l[1].v", [2]),
        (".a.l[*].v", [1, 2]),
        ('.a.l[?(@.t=="y")].v', [2]),
        (".a.missing.x", []),
        (".a.l[7]", []),
    ],
)
def test_paths_of_printer_columns(path: str, found: list[Any]) -> None:
    assert find_path(DOCUMENT, path) == found


def terminated(code: int, reason: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, **({"reason": reason} if reason else {})}}


POD_STATES: list[tuple[dict[str, Any], str]] = [
    ({"phase": "Pending"}, "Pending"),
    ({"phase": "Running", "containerStatuses": [{"name": "c", "ready": True, "state": {"running": {}}}]}, "Running"),
    (
        {"phase": "Pending", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ErrImagePull"}}}]},
        "ErrImagePull",
    ),
    ({"phase": "Succeeded", "containerStatuses": [{"name": "c", "state": terminated(0, "Completed")}]}, "Completed"),
    ({"phase": "Failed", "containerStatuses": [{"name": "c", "state": terminated(3)}]}, "ExitCode:3"),
    ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
]


@pytest.mark.parametrize(("status", "shown"), POD_STATES, ids=[s[1] for s in POD_STATES])
def test_what_get_pods_says(
    memory_printer: Callable[[str, dict[str, Any]], list[Any]], status: dict[str, Any], shown: str
) -> None:
    document = {**pod("a"), "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": status}
    assert memory_printer("Pod", document)[2] == shown


@pytest.mark.parametrize(
    ("ports", "addresses", "shown"),
    [
        ([], [], ["<unset>", "<unset>"]),
        ([{"port": 80}, {"name": "any"}, {}], ["10.0.0.1"], ["80,any,*", "10.0.0.1"]),
        (
            [{"port": n} for n in range(1, 6)],
            ["10.0.0.1"] * 4,
            ["1,2,3 + 2 more...", "10.0.0.1,10.0.0.1,10.0.0.1 + 1 more..."],
        ),
    ],
)
def test_what_get_endpointslices_says(
    memory_printer: Callable[[str, dict[str, Any]], list[Any]],
    ports: list[dict[str, Any]],
    addresses: list[str],
    shown: list[str],
) -> None:
    document = {"metadata": {"name": "a"}, "addressType": "IPv4", "ports": ports}
    assert memory_printer("EndpointSlice", {**document, "endpoints": [{"addresses": addresses}]})[2:4] == shown


@pytest.fixture
def memory_printer() -> Callable[[str, dict[str, Any]], list[Any]]:
    def show(kind: str, document: dict[str, Any]) -> list[Any]:
        resource = Memory().resource(kind)
        cells: list[Any] = Printer(resource, "None").table([Entry(1, ("", "a"), encode(document))], {})["rows"][0][
            "cells"
        ]
        return cells

    return show


def test_every_kind_prints_itself_even_empty(memory_printer: Callable[[str, dict[str, Any]], list[Any]]) -> None:
    for resource in Memory().registry.resources():
        if "list" in resource.verbs:
            document = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "a"}}
            assert memory_printer(resource.kind, document)


# -- tokens and certificates


CLAIMS = Claims("ns", "robot", "uid-1", (ISSUER,), 2_000, "id-1", Bound("Pod", "p", "uid-2"))


def signer() -> Signer:
    return Signer(pki.load_key(pki.make_key()))


def test_a_token_says_what_was_signed() -> None:
    mine = signer()
    assert mine.verify(mine.sign(CLAIMS, now=1_000), now=1_500) == CLAIMS


@pytest.mark.parametrize("now", [2_000, 500])
def test_tokens_expire_and_begin(now: int) -> None:
    mine = signer()
    with pytest.raises(TokenError, match="expired"):
        mine.verify(mine.sign(CLAIMS, now=1_000), now=now)


def test_forged_and_foreign_tokens_are_refused() -> None:
    mine = signer()
    token = mine.sign(CLAIMS, now=1_000)
    header, payload, signature = token.split(".")
    for text in (
        signer().sign(CLAIMS, now=1_000),
        f"{header}.{payload}.",
        f"{header}.{payload[:-2]}.{signature}",
        f"e30.{payload}.{signature}",
        "a.b.c",
        "",
    ):
        with pytest.raises(TokenError):
            mine.verify(text, now=1_500)
    with pytest.raises(TokenError, match="somebody else"):
        mine.verify(token, "another audience", now=1_500)


@given(st.text(max_size=60))
def test_no_text_breaks_the_verifier(text: str) -> None:
    with pytest.raises(TokenError):
        signer().verify(text)


def test_a_pki_directory_is_made_once(tmp_path: Path) -> None:
    files = pki.Files(tmp_path / "pki")
    first = files.ensure(["192.0.2.1", "node.example.org"])
    again = files.ensure([])
    assert first.pair == again.pair
    assert (tmp_path / "pki" / "ca.key").stat().st_mode & 0o777 == 0o600
    certificate = x509.load_pem_x509_certificate(files.read_pair("apiserver").certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.1" in [str(a) for a in names.get_values_for_type(x509.IPAddress)]
    assert {"kubernetes.default.svc", "node.example.org"} <= set(names.get_values_for_type(x509.DNSName))
    certificate.verify_directly_issued_by(first.certificate)


def test_certificates_are_ones_that_openssl_takes(tmp_path: Path) -> None:
    authority = pki.make_authority()
    pair = pki.make_client(authority, "system:node:node-1", ("system:nodes", "more"))
    (tmp_path / "c").write_bytes(pair.certificate)
    (tmp_path / "k").write_bytes(pair.key)
    context = ssl.create_default_context()
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    with pytest.raises(ValueError, match="64"):
        pki.make_client(authority, "n" * 65)
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3000)
    assert [a.value for a in certificate.subject] == ["system:nodes", "more", "system:node:node-1"]


# -- command line


@pytest.mark.parametrize(
    "flags",
    [
        ["--listen", "x"],
        ["--listen", "1.2.3.4:99999"],
        ["--service-cidr", "10.0.0.1/8"],
        ["--service-cidr", "10.0.0.0/24", "--service-cidr", "10.1.0.0/24"],
        ["--nonsense"],
    ],
)
def test_wrong_flags_end_with_status_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--data", "d", "--pki", "p", *flags])
    assert caught.value.code == 2
    assert flags[0] in capsys.readouterr().err


# -- definitions


def crd(**changes: Any) -> dict[str, Any]:
    return {**CRON_TABS, "spec": {**CRON_TABS["spec"], **changes}}


VERSION = CRON_TABS["spec"]["versions"][0]
DEFINITIONS: list[tuple[str, dict[str, Any], str]] = [
    ("no version", crd(versions=[]), "spec.versions"),
    ("two storage versions", crd(versions=[VERSION, {**VERSION, "name": "v2"}]), "spec.versions"),
    ("scope", crd(scope="Sometimes"), "spec.scope"),
    ("name", {**CRON_TABS, "metadata": {"name": "other"}}, "metadata.name"),
    ("no schema", crd(versions=[{**VERSION, "schema": {}}]), "spec.versions[0].schema.openAPIV3Schema"),
    (
        "untyped field",
        crd(versions=[{**VERSION, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"x": {}}}}}]),
        "spec.versions[0].schema.openAPIV3Schema.properties[x].type",
    ),
    (
        "pattern",
        crd(
            versions=[
                {
                    **VERSION,
                    "schema": {
                        "openAPIV3Schema": {"type": "object", "properties": {"x": {"type": "string", "pattern": "("}}}
                    },
                }
            ]
        ),
        "spec.versions[0].schema.openAPIV3Schema.properties[x].pattern",
    ),
]


@pytest.mark.parametrize(("document", "field"), [d[1:] for d in DEFINITIONS], ids=[d[0] for d in DEFINITIONS])
async def test_a_bad_definition_is_refused(memory: Memory, document: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        await memory.create(document)
    assert field in [c["field"] for c in caught.value.details["causes"]]


async def test_names_that_are_taken_are_not_accepted(memory: Memory) -> None:
    await memory.create(CRON_TABS)
    names = {**CRON_TABS["spec"]["names"], "plural": "others"}
    second = await memory.create({**crd(names=names), "metadata": {"name": "others.stable.example.com"}})
    assert {c["type"]: c["status"] for c in second["status"]["conditions"]} == {
        "NamesAccepted": "False",
        "Established": "False",
    }
    assert memory.registry.find("stable.example.com", "v1", "others") is None


@pytest.mark.parametrize("document", [pod("a"), deployment("a"), cron_tab("a")], ids=["Pod", "Deployment", "CronTab"])
async def test_what_a_client_gets_it_may_send_back(memory: Memory, document: dict[str, Any]) -> None:
    await memory.create(CRON_TABS)
    made = await memory.create(document)
    assert await memory.update(made) == made
