"""The CNI protocol (containernetworking/cni SPEC 1.1.0): requests as the plugin relays them, results by version. Pure.

A request is the CNI_* variables ("NAME=value", NUL-terminated), an empty string, and the network configuration. Versions
0.3.0 to 1.1.0 are spoken; CHECK exists since 0.4.0, GC and STATUS since 1.1.0.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from stentor.agent.errors import BadEnvironment, BadNetworkConfig, CniError, IncompatibleVersion, Undecodable
from stentor.tables.endpoint import Endpoint

VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_SINCE: Final = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
COMMANDS: Final = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
_CONTAINER_ID: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,255}")
_IFNAME: Final = re.compile(r"(?!\.{1,2}$)[^/:\s]{1,15}")


class Attachment(msgspec.Struct, frozen=True):
    """One that the runtime still knows (GC's cni.dev/valid-attachments)."""

    container_id: str = msgspec.field(name="containerID")
    ifname: str = msgspec.field(name="ifname")


class NetworkConfig(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a network configuration that matters here."""

    cni_version: str = "1.0.0"
    name: str = ""
    type: str = ""
    valid_attachments: tuple[Attachment, ...] | None = msgspec.field(name="cni.dev/valid-attachments", default=None)
    valid_attachments_1_1: tuple[Attachment, ...] | None = msgspec.field(name="cni.dev/attachments", default=None)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the plugin."""

    command: str
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    arguments: dict[str, str] = {}
    config: NetworkConfig = NetworkConfig()

    @property
    def pod(self) -> tuple[str, str]:
        """(namespace, name), empty when no pod is meant."""
        return self.arguments.get("K8S_POD_NAMESPACE", ""), self.arguments.get("K8S_POD_NAME", "")


_CONFIG = msgspec.json.Decoder(NetworkConfig)
_ENCODER = msgspec.json.Encoder()


def parse_request(raw: bytes) -> Request:
    """From what the plugin sent; a CniError says what is wrong, naming the variable or field."""
    head, separator, body = raw.partition(b"\0\0")
    if not separator and raw[:1] == b"\0":
        head, body = b"", raw[1:]
    variables = _variables(head)
    command = variables.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise BadEnvironment("invalid environment", f"CNI_COMMAND: {command!r} is none of {', '.join(COMMANDS)}")
    config = _config(body, command)
    _check_version(command, config.cni_version)
    if command in ("ADD", "DEL", "CHECK"):
        _check_name("CNI_CONTAINERID", variables, _CONTAINER_ID)
        _check_name("CNI_IFNAME", variables, _IFNAME)
    if command in ("ADD", "CHECK") and not variables.get("CNI_NETNS"):
        raise BadEnvironment("invalid environment", "CNI_NETNS is missing")
    return Request(
        command=command,
        container_id=variables.get("CNI_CONTAINERID", ""),
        netns=variables.get("CNI_NETNS", ""),
        ifname=variables.get("CNI_IFNAME", ""),
        arguments=_arguments(variables.get("CNI_ARGS", "")),
        config=config,
    )


def _variables(head: bytes) -> dict[str, str]:
    try:
        entries = head.decode().split("\0")
    except UnicodeDecodeError as e:
        raise BadEnvironment("invalid environment", "a CNI_* variable is not UTF-8") from e
    return {name: value for name, equals, value in (entry.partition("=") for entry in entries) if equals}


def _arguments(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split(";") if pair)
    arguments = {}
    for key, equals, value in pairs:
        if not equals:
            raise BadEnvironment("invalid environment", f"CNI_ARGS: {key!r} is not of the form KEY=VALUE")
        arguments[key] = value
    return arguments


def _config(body: bytes, command: str) -> NetworkConfig:
    if not body.strip():
        if command in ("VERSION", "DEL"):  # a stored deletion may have lost nothing but its configuration
            return NetworkConfig()
        raise Undecodable("cannot decode the network configuration", "it is empty")
    try:
        return _CONFIG.decode(body)
    except msgspec.ValidationError as e:
        raise BadNetworkConfig("invalid network configuration", str(e)) from e
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Undecodable("cannot decode the network configuration", str(e)) from e


def _check_version(command: str, version: str) -> None:
    if version not in VERSIONS:
        details = f"cniVersion: {version!r} is none of {', '.join(VERSIONS)}"
        raise IncompatibleVersion("incompatible CNI version", details)
    since = _SINCE.get(command)
    if since is not None and VERSIONS.index(version) < VERSIONS.index(since):
        raise IncompatibleVersion("incompatible CNI version", f"{command} needs cniVersion {since}, not {version}")


def _check_name(variable: str, variables: dict[str, str], form: re.Pattern[str]) -> None:
    value = variables.get(variable, "")
    if not value:
        raise BadEnvironment("invalid environment", f"{variable} is missing")
    if not form.fullmatch(value):
        raise BadEnvironment("invalid environment", f"{variable}: {value!r} is malformed")


def add_result(version: str, endpoint: Endpoint, *, mtu: int, route_mtu: int) -> bytes:
    """The result of ADD: both ends, a host address a family, default routes without a gateway."""
    mac = endpoint.mac.hex(":")
    near: dict[str, Any] = {"name": endpoint.host_ifname, "mac": mac}
    far: dict[str, Any] = {"name": endpoint.container_ifname, "mac": mac, "sandbox": endpoint.netns}
    routes: list[dict[str, Any]] = [{"dst": "0.0.0.0/0" if addr.family == 4 else "::/0"} for addr in endpoint.addresses]
    ips: list[dict[str, Any]] = []
    for addr in endpoint.addresses:
        ip: dict[str, Any] = {"address": f"{addr}/{32 if addr.family == 4 else 128}", "interface": 1}
        if version.startswith("0."):
            ip["version"] = str(addr.family)
        ips.append(ip)
    if version == "1.1.0":
        for interface in (near, far):
            interface["mtu"] = mtu
        for route in routes:
            route["mtu"] = route_mtu
    result = {"cniVersion": version, "interfaces": [near, far], "ips": ips, "routes": routes, "dns": {}}
    return _ENCODER.encode(result)


def version_result() -> bytes:
    """What VERSION answers."""
    return _ENCODER.encode({"cniVersion": VERSIONS[-1], "supportedVersions": VERSIONS})


def error_result(error: CniError, version: str = "1.0.0") -> bytes:
    """An error as the specification has it."""
    return _ENCODER.encode({"cniVersion": version, "code": error.code, "msg": error.message, "details": error.details})
