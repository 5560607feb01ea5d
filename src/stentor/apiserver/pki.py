"""Keys and certificates of a cluster: its authority, servers, clients, the key that signs service account tokens, and
kubeconfig files. ECDSA P-256 throughout; making one takes a fraction of a millisecond.

Everything returns PEM bytes, so that a lab can hand each machine only what is its own.
"""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
LIFETIME: Final = timedelta(days=3650)
KUBERNETES_NAMES: Final = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
)


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes


class Authority(msgspec.Struct, frozen=True):
    """A certificate authority that can sign."""

    pair: Pair
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority(name: str = "kubernetes") -> Authority:
    """A new self-signed authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=True, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return Authority(Pair(_pem(certificate), key_pem(key)), certificate, key)


def load_authority(pair: Pair) -> Authority:
    """An authority from its PEM. Raises ValueError."""
    key = load_key(pair.key)
    return Authority(pair, x509.load_pem_x509_certificate(pair.certificate), key)


def make_client(authority: Authority, user: str, groups: Sequence[str] = ()) -> Pair:
    """A client certificate: the common name is the user (at most 64 characters, else ValueError), organisations are
    the groups."""
    return _issue(authority, user, groups, (), ExtendedKeyUsageOID.CLIENT_AUTH)


def make_server(authority: Authority, name: str, subjects: Iterable[str], groups: Sequence[str] = ()) -> Pair:
    """A serving certificate for DNS names and addresses."""
    return _issue(authority, name, groups, tuple(dict.fromkeys(subjects)), ExtendedKeyUsageOID.SERVER_AUTH)


def make_key() -> bytes:
    """A private key, for signing service account tokens."""
    return key_pem(ec.generate_private_key(ec.SECP256R1()))


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises ValueError when it is no elliptic curve key."""
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")  # noqa: TRY004
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_kubeconfig(server: str, ca: bytes, client: Pair, *, name: str = "stentor") -> str:
    """A kubeconfig with one context that holds all it needs."""
    cluster = {"server": server, "certificate-authority-data": _base64(ca)}
    user = {"client-certificate-data": _base64(client.certificate), "client-key-data": _base64(client.key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return str(yaml.dump(document, Dumper=_DUMPER, sort_keys=False))


class Files:
    """The PKI directory of an API server: made on first use, kept afterwards.

    ca.crt ca.key apiserver.crt apiserver.key apiserver-kubelet-client.crt apiserver-kubelet-client.key sa.key
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        return self.directory / name

    def ensure(self, subjects: Iterable[str]) -> Authority:
        """Complete the directory; `subjects` are further names and addresses of the server."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.path("ca.key").exists():
            self.write_pair("ca", make_authority().pair)
        authority = load_authority(self.read_pair("ca"))
        if not self.path("apiserver.key").exists():
            self.write_pair("apiserver", make_server(authority, "kube-apiserver", (*KUBERNETES_NAMES, *subjects)))
        if not self.path("apiserver-kubelet-client.key").exists():
            client = make_client(authority, "kube-apiserver-kubelet-client", ("system:masters",))
            self.write_pair("apiserver-kubelet-client", client)
        if not self.path("sa.key").exists():
            write_private(self.path("sa.key"), make_key())
        return authority

    def read_pair(self, name: str) -> Pair:
        return Pair(self.path(f"{name}.crt").read_bytes(), self.path(f"{name}.key").read_bytes())

    def write_pair(self, name: str, pair: Pair) -> None:
        self.path(f"{name}.crt").write_bytes(pair.certificate)
        write_private(self.path(f"{name}.key"), pair.key)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    scratch.rename(path)


def _issue(
    authority: Authority, name: str, groups: Sequence[str], subjects: Sequence[str], usage: x509.ObjectIdentifier
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
    common = x509.NameAttribute(NameOID.COMMON_NAME, name)
    builder = (
        _builder(x509.Name([*attributes, common]), authority.certificate.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    if subjects:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(s) for s in subjects]), critical=False
        )
    certificate = builder.sign(authority.key, hashes.SHA256())
    return Pair(_pem(certificate), key_pem(key))


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - timedelta(hours=1)  # clocks of machines differ
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
