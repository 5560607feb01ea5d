"""Kubeconfig files: what is wrong is named by file and field."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from stentor.kube import config
from stentor.kube.errors import BadConfig

GOOD = """
current-context: a
clusters: [{name: c, cluster: {server: "https://h:6443/", certificate-authority-data: Q0E=}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: a, context: {cluster: c, user: u, namespace: n}}, {name: b, context: {cluster: c}}]
"""


def write(path: Path, text: str) -> Path:
    file = path / "config"
    file.write_text(text)
    return file


def test_a_context_is_resolved(tmp_path: Path) -> None:
    found = config.load(write(tmp_path, GOOD))
    assert (found.server, found.token, found.namespace, found.ca, found.context) == (
        "https://h:6443",
        "secret",
        "n",
        b"CA",
        "a",
    )
    assert config.load(write(tmp_path, GOOD), "b").token == ""


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("PEM")
    text = GOOD.replace("certificate-authority-data: Q0E=", "certificate-authority: ca.pem")
    assert config.load(write(tmp_path, text)).ca == b"PEM"


@pytest.mark.parametrize(
    ("text", "context", "words"),
    [
        (GOOD, "x", "no context named 'x' (there are: a, b)"),
        (GOOD.replace("cluster: c,", "cluster: z,"), None, "no cluster named 'z'"),
        (GOOD.replace("current-context: a", ""), None, "no current-context"),
        (GOOD.replace("Q0E=", "Q0"), None, "clusters[c].certificate-authority-data: not base64"),
        (GOOD.replace("token: secret", "exec: {command: x}"), None, "users[u].exec is not supported"),
        (GOOD.replace("server:", "servr:"), None, "missing required field `server`"),
        ("clusters: [", None, "while parsing"),
        ("just text", None, "Expected `object`"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, context: str | None, words: str) -> None:
    with pytest.raises(BadConfig) as caught:
        config.load(write(tmp_path, text), context)
    assert words in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        config.load(tmp_path / "nothing")


def test_a_broken_certificate_is_a_configuration_error() -> None:
    broken = config.Connection(server="https://h", ca=base64.b64encode(b"no certificate"))
    with pytest.raises(BadConfig, match="certificates for https://h"):
        broken.ssl_context()
