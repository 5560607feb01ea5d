"""The container network interface, runner's side: find the configuration, call its plugins, read their results.

https://www.cni.dev/docs/spec/ (1.1.0; 1.0.0, 0.4.0 and 0.3.x are spoken where a configuration asks for them). Parameters
go in the environment, the configuration on standard input; plugins of a list are called in order for ADD and CHECK, in
reverse for DEL. Nothing here knows which plugin it calls.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from stentor.lab.runner import spawn
from stentor.lab.runner.errors import BadNetworkConfig, CniError, SpawnTimeout

VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_TIMEOUT_S: Final = 60.0
_SUFFIXES: Final = (".conf", ".conflist", ".json")

Document = dict[str, Any]


class Network(msgspec.Struct, frozen=True):
    """A network configuration list; `version` is the one that will be spoken."""

    name: str
    version: str
    plugins: tuple[Document, ...]
    disable_check: bool = False
    disable_gc: bool = False

    @property
    def knows_status(self) -> bool:
        """STATUS and GC came with 1.1.0."""
        return _rank(self.version) >= _rank("1.1.0")


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One interface of one sandbox: what ADD is told, and DEL again later."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: dict[str, str] = {}
    capabilities: dict[str, Any] = {}


class Result(msgspec.Struct, frozen=True):
    """What a runtime needs of a result; `raw` goes back to the plugins as prevResult."""

    addresses: tuple[str, ...]
    raw: Document


class _ResultIp(msgspec.Struct):
    address: str


class _ResultFields(msgspec.Struct):
    ips: list[_ResultIp] = []


class _Error(msgspec.Struct):
    code: int = 0
    msg: str = ""
    details: str = ""


def find_network(directory: Path) -> Network | None:
    """The first configuration of the directory by name, as kubelets take it; None when there is none.

    BadNetworkConfig when the first one cannot be used.
    """
    try:
        names = sorted(entry for entry in os.listdir(directory) if entry.endswith(_SUFFIXES))
    except FileNotFoundError:
        return None
    return parse_network(directory / names[0]) if names else None


def parse_network(path: Path) -> Network:
    """A .conflist, or a single plugin's .conf made a list of one."""
    try:
        document = msgspec.json.decode(path.read_bytes(), type=Document)
    except (OSError, msgspec.MsgspecError) as e:
        raise BadNetworkConfig(f"{path}: {e}") from e
    plugins = document.get("plugins", [document] if "type" in document else [])
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise BadNetworkConfig(f"{path}: name: missing")
    if not isinstance(plugins, list) or not plugins:
        raise BadNetworkConfig(f"{path}: plugins: must be a list of at least one plugin")
    for index, plugin in enumerate(plugins):
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind:
            raise BadNetworkConfig(f"{path}: plugins[{index}].type: must be the name of a program")
    return Network(
        name=name,
        version=negotiate(path, document),
        plugins=tuple(plugins),
        disable_check=bool(document.get("disableCheck", False)),
        disable_gc=bool(document.get("disableGC", False)),
    )


def negotiate(path: Path, document: Document) -> str:
    """The highest version that the configuration offers and this runner speaks."""
    offered = document.get("cniVersions") or [document.get("cniVersion", "0.2.0")]
    known = [version for version in VERSIONS if version in offered]
    if not known:
        raise BadNetworkConfig(f"{path}: cniVersion: {', '.join(map(str, offered))}; known: {', '.join(VERSIONS)}")
    return known[-1]


class Invoker:
    """Calls plugins found in `directories`, in that order."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories

    async def add(self, network: Network, attachment: Attachment) -> Result:
        """Attaches; a plugin that fails is followed by DEL of the whole list, as the specification asks."""
        previous: Document | None = None
        try:
            for plugin in network.plugins:
                previous = await self._call("ADD", network, plugin, attachment, previous)
        except CniError:
            await self._undo(network, attachment, previous)
            raise
        return parse_result(previous or {})

    async def delete(self, network: Network, attachment: Attachment, previous: Document | None) -> None:
        """Detaches; repeating it, or deleting what was never added, is no error (plugins' duty)."""
        for plugin in reversed(network.plugins):
            await self._call("DEL", network, plugin, attachment, previous)

    async def check(self, network: Network, attachment: Attachment, previous: Document) -> None:
        """Whether the attachment is as ADD left it; CHECK came with 0.4.0."""
        if network.disable_check or _rank(network.version) < _rank("0.4.0"):
            return
        for plugin in network.plugins:
            await self._call("CHECK", network, plugin, attachment, previous)

    async def status(self, network: Network) -> None:
        """CniError when a plugin cannot serve ADD now (codes 50, 51)."""
        if network.knows_status:
            for plugin in network.plugins:
                await self._call("STATUS", network, plugin, None, None)

    async def collect(self, network: Network, valid: Sequence[Attachment]) -> None:
        """GC: plugins drop whatever belongs to no valid attachment."""
        if network.disable_gc or not network.knows_status:
            return
        listed = [{"containerID": entry.container_id, "ifname": entry.ifname} for entry in valid]
        for plugin in network.plugins:
            extended = {**plugin, "cni.dev/valid-attachments": listed}
            await self._call("GC", network, extended, None, None)

    async def _undo(self, network: Network, attachment: Attachment, previous: Document | None) -> None:
        for plugin in reversed(network.plugins):
            try:
                await self._call("DEL", network, plugin, attachment, previous)
            except CniError:
                continue  # the failure of ADD is the one to report

    async def _call(
        self,
        command: str,
        network: Network,
        plugin: Document,
        attachment: Attachment | None,
        previous: Document | None,
    ) -> Document:
        kind = str(plugin["type"])
        program = self._find(kind, command)
        config = _plugin_config(network, plugin, attachment, previous)
        try:
            done = await spawn.run(
                [str(program)],
                _environment(command, self._directories, attachment),
                stdin=msgspec.json.encode(config),
                timeout_s=_TIMEOUT_S,
            )
        except (OSError, SpawnTimeout) as e:
            raise CniError(kind, command, 0, str(e)) from e
        if done.code:
            raise _failure(kind, command, done)
        try:
            return msgspec.json.decode(done.output, type=Document) if done.output.strip() else {}
        except msgspec.MsgspecError as e:
            raise CniError(kind, command, 0, f"undecodable result: {e}") from e

    def _find(self, kind: str, command: str) -> Path:
        for directory in self._directories:
            if os.access(directory / kind, os.X_OK):
                return directory / kind
        searched = ":".join(map(str, self._directories))
        raise CniError(kind, command, 0, f'failed to find plugin "{kind}" in path [{searched}]')


def parse_result(document: Document) -> Result:
    """Addresses of a result of any spoken version, without their prefix lengths."""
    try:
        fields = msgspec.convert(document, _ResultFields)
    except msgspec.ValidationError as e:
        raise CniError("", "ADD", 0, f"result: {e}") from e
    return Result(tuple(ip.address.partition("/")[0] for ip in fields.ips), document)


def _plugin_config(
    network: Network, plugin: Document, attachment: Attachment | None, previous: Document | None
) -> Document:
    config = {**plugin, "name": network.name, "cniVersion": network.version}
    wanted = plugin.get("capabilities") or {}
    if attachment is not None:
        runtime = {key: value for key, value in attachment.capabilities.items() if wanted.get(key)}
        if runtime:
            config["runtimeConfig"] = runtime
    if previous:
        config["prevResult"] = previous
    return config


def _environment(command: str, directories: Sequence[Path], attachment: Attachment | None) -> dict[str, str]:
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "CNI_COMMAND": command,
        "CNI_PATH": ":".join(map(str, directories)),
    }
    if attachment is not None:
        env["CNI_CONTAINERID"] = attachment.container_id
        env["CNI_NETNS"] = attachment.netns
        env["CNI_IFNAME"] = attachment.ifname
        env["CNI_ARGS"] = ";".join(f"{key}={value}" for key, value in attachment.args.items())
    return env


def _failure(kind: str, command: str, done: spawn.Completed) -> CniError:
    try:
        error = msgspec.json.decode(done.output, type=_Error)
    except msgspec.MsgspecError:
        error = _Error()
    text = "; ".join(part for part in (error.msg, error.details) if part)
    fallback = done.errors.decode("utf-8", "replace").strip()[-500:] or f"exit status {done.code}"
    return CniError(kind, command, error.code, text or fallback)


def _rank(version: str) -> int:
    return VERSIONS.index(version)
