"""Where the API server is and how to authenticate: kubeconfig files and the in-cluster service account."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from stentor.kube.errors import BadConfig

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """All that a client needs. Certificates are PEM; `token_file` is read again for each request (tokens are rotated)."""

    server: str
    context: str = ""
    namespace: str = "default"
    ca: bytes = b""
    client_certificate: bytes = b""
    client_key: bytes = b""
    token: str = ""
    token_file: str = ""
    server_name: str = ""
    insecure: bool = False

    def ssl_context(self) -> ssl.SSLContext | None:
        """None for plain HTTP; BadConfig when a certificate cannot be used."""
        if not self.server.startswith("https:"):
            return None
        try:
            # Reading the system's authorities costs 40 ms: only who has no authority of their own needs them.
            context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
            if self.client_certificate:
                _load_client_certificate(context, self.client_certificate, self.client_key)
        except (ssl.SSLError, ValueError) as e:
            raise BadConfig(f"certificates for {self.server}: {e}") from e
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _load_client_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # The ssl module reads files only; the private directory keeps the key from other users for that moment.
    with tempfile.TemporaryDirectory(prefix="stentor-") as directory:
        path = Path(directory, "client.pem")
        path.touch(mode=0o600)
        path.write_bytes(certificate + b"\n" + key)
        context.load_cert_chain(path)


class _Named(msgspec.Struct, frozen=True):
    name: str


N = TypeVar("N", bound=_Named)


class _ClusterFields(msgspec.Struct, frozen=True, rename="kebab"):
    server: str
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False


class _Cluster(_Named, frozen=True):
    cluster: _ClusterFields


class _UserFields(msgspec.Struct, frozen=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    exec: dict[str, Any] | None = None


class _User(_Named, frozen=True):
    user: _UserFields = _UserFields()


class _ContextFields(msgspec.Struct, frozen=True):
    cluster: str
    user: str = ""
    namespace: str = "default"


class _Context(_Named, frozen=True):
    context: _ContextFields


class _Kubeconfig(msgspec.Struct, frozen=True, rename="kebab"):
    clusters: tuple[_Cluster, ...] = ()
    users: tuple[_User, ...] | None = ()
    contexts: tuple[_Context, ...] = ()
    current_context: str = ""


def is_configured(kubeconfig: str | None = None) -> bool:
    """Whether `find` has a place to look at; what it says there may still be wrong."""
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists()
    return bool(kubeconfig or os.environ.get("KUBECONFIG")) or in_pod or (Path.home() / ".kube/config").exists()


def find(kubeconfig: str | None = None, context: str | None = None) -> Connection:
    """By the file given, else $KUBECONFIG, else the service account of the pod, else ~/.kube/config."""
    path = kubeconfig or os.environ.get("KUBECONFIG", "").split(":")[0]
    if path:
        return load(Path(path), context)
    if "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists():
        return in_cluster()
    default = Path.home() / ".kube/config"
    if not default.exists():
        raise BadConfig("no kubeconfig: give --kubeconfig FILE or set KUBECONFIG")
    return load(default, context)


def in_cluster(root: Path = SERVICE_ACCOUNT) -> Connection:
    """From the files and variables that Kubernetes gives to pods."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    bracketed = f"[{host}]" if ":" in host else host
    namespace = root / "namespace"
    return Connection(
        server=f"https://{bracketed}:{port}",
        ca=(root / "ca.crt").read_bytes(),
        token_file=str(root / "token"),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
    )


def load(path: Path, context: str | None = None) -> Connection:
    """From a kubeconfig file; relative paths in it are relative to it. BadConfig names what is wrong."""
    config = _parse(path)
    name = context or config.current_context
    if not name:
        raise BadConfig(f"{path}: no current-context; choose one with --context: {_names(config.contexts)}")
    chosen = _by_name(path, "context", config.contexts, name).context
    cluster = _by_name(path, "cluster", config.clusters, chosen.cluster).cluster
    user = _by_name(path, "user", config.users or (), chosen.user).user if chosen.user else _UserFields()
    if user.exec is not None:
        raise BadConfig(f"{path}: users[{chosen.user}].exec is not supported; use a certificate or a token")
    where = f"{path}: users[{chosen.user}]"
    return Connection(
        server=cluster.server.rstrip("/"),
        context=name,
        namespace=chosen.namespace,
        ca=_material(
            path,
            f"{path}: clusters[{chosen.cluster}].certificate-authority",
            cluster.certificate_authority,
            cluster.certificate_authority_data,
        ),
        client_certificate=_material(
            path, f"{where}.client-certificate", user.client_certificate, user.client_certificate_data
        ),
        client_key=_material(path, f"{where}.client-key", user.client_key, user.client_key_data),
        token=user.token,
        token_file=str(path.parent / user.token_file) if user.token_file else "",
        server_name=cluster.tls_server_name,
        insecure=cluster.insecure_skip_tls_verify,
    )


def _parse(path: Path) -> _Kubeconfig:
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
        return msgspec.convert(document, _Kubeconfig)
    except OSError as e:
        raise BadConfig(f"{path}: {e.strerror}") from e
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as e:
        raise BadConfig(f"{path}: {e}") from e


def _names(entries: tuple[_Context, ...]) -> str:
    return ", ".join(entry.name for entry in entries) or "there are none"


def _by_name(path: Path, what: str, entries: tuple[N, ...], name: str) -> N:
    for entry in entries:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries) or "none"
    raise BadConfig(f"{path}: no {what} named {name!r} (there are: {known})")


def _material(path: Path, field: str, file: str, data: str) -> bytes:
    try:
        if data:
            return base64.b64decode(data, validate=True)
        return (path.parent / file).read_bytes() if file else b""
    except binascii.Error as e:
        raise BadConfig(f"{field}-data: not base64: {e}") from e
    except OSError as e:
        raise BadConfig(f"{field}: {file}: {e.strerror}") from e
