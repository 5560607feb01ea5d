"""The topology file: what a user writes, as typed values, strictly parsed.

Shapes only; what the words mean together (addresses, gateways, overlaps) is `plan.py`'s. Errors name the path of the
value, as `spec.clusters[0].nodes[1].networks[0].addresses[0]`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from stentor.lab.errors import TopologyError

API_VERSION = "lab.stentor.io/v1"

Described = msgspec.Meta


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class Attachment(_Part, frozen=True):
    """A machine's port on a network; it becomes eth0, eth1, … in the order of the list."""

    name: Annotated[str, Described(description="name of a network of spec.networks")]
    addresses: Annotated[
        list[str] | None,
        Described(description="without prefix length; default: the first free address of each of the network's CIDRs"),
    ] = None


class Network(_Part, frozen=True):
    """A layer-2 segment: a bridge in a namespace of its own."""

    name: str
    cidrs: Annotated[list[str], Described(min_length=1, description="prefixes of the segment, one family or both")]
    mtu: Annotated[int, Described(ge=1280, le=65535)] = 1500


class Node(_Part, frozen=True):
    """A machine of a cluster; its Kubernetes name is its name here."""

    name: str
    networks: list[Attachment]
    labels: dict[str, str] = {}
    values: Annotated[dict[str, Any], Described(description="Helm values of this node, over the cluster's")] = {}


class Cluster(_Part, frozen=True):
    """A Kubernetes cluster with Stentor as its network."""

    name: str
    nodes: Annotated[list[Node], Described(min_length=1)]
    id: Annotated[
        Annotated[int, Described(ge=0, le=511)] | None,
        Described(description="cluster.id; default: 0 if alone, else its place in the list"),
    ] = None
    values: Annotated[dict[str, Any], Described(description="Helm values of agent and operator")] = {}
    service_cidrs: Annotated[list[str] | None, Described(description="default 10.96.0.0/16 and fd00:96::/112")] = (
        msgspec.field(default=None, name="serviceCIDRs")
    )
    control_plane: Annotated[str | None, Described(description="node of the control plane; default: the first")] = None


class Host(_Part, frozen=True):
    """A machine of no cluster: a router, a server, a virtual machine."""

    name: str
    networks: list[Attachment]
    forward: Annotated[bool, Described(description="routes packets of both families")] = False
    files: Annotated[dict[str, str], Described(description="absolute path: content, seen by this machine only")] = {}
    run: Annotated[list[list[str]], Described(description="commands that are kept running")] = []


class Route(_Part, frozen=True):
    machine: str
    to: Annotated[str, Described(description="a prefix, or `default` in the family of `via`")]
    via: str


class Image(_Part, frozen=True):
    """Exactly one of the two."""

    command: Annotated[list[str] | None, Described(description="a program of the host's files")] = None
    rootfs: Annotated[str | None, Described(description="a directory that becomes the pod's root")] = None


class Manifest(_Part, frozen=True):
    """A file to apply to one cluster; a plain string is applied to each."""

    cluster: str
    file: str


class Metadata(_Part, frozen=True):
    name: str


class Spec(_Part, frozen=True):
    networks: Annotated[list[Network], Described(min_length=1)]
    clusters: list[Cluster] = []
    hosts: list[Host] = []
    routes: list[Route] = []
    images: dict[str, Image] = {}
    manifests: list[str | Manifest] = []


class Topology(_Part, frozen=True):
    api_version: Literal["lab.stentor.io/v1"]
    kind: Literal["Topology"]
    metadata: Metadata
    spec: Spec


DEFAULT = """\
apiVersion: lab.stentor.io/v1
kind: Topology
metadata: {name: default}
spec:
  networks:
  - {name: lan, cidrs: [172.18.0.0/24, "fd00:18::/64"]}
  clusters:
  - name: default
    nodes:
    - {name: node-1, networks: [{name: lan, addresses: [172.18.0.11, "fd00:18::11"]}]}
    - {name: node-2, networks: [{name: lan, addresses: [172.18.0.12, "fd00:18::12"]}]}
"""


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a key written twice, of which plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(None, None, f"key {key.value!r} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Topology:
    """Reads and parses a topology file; TopologyError tells what is wrong and where."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise TopologyError([("", f"cannot be read: {reason}")]) from e
    return parse(text)


def parse(text: str) -> Topology:
    """A topology from YAML; TopologyError names the path of the first value that does not fit."""
    try:
        document = yaml.load(text, _StrictLoader)  # a subclass of the safe loader
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise TopologyError([(where, f"not YAML: {getattr(e, 'problem', None) or e}")]) from e
    except (RecursionError, ValueError) as e:
        raise TopologyError([("", f"not YAML: {e}")]) from e
    if not isinstance(document, dict):
        raise TopologyError([("", f"a topology is a mapping with apiVersion: {API_VERSION} and kind: Topology")])
    try:
        return msgspec.convert(document, Topology)
    except msgspec.ValidationError as e:
        path, what = _locate(str(e))
        raise TopologyError([(_name_key(document, path), what)]) from e


def schema() -> bytes:
    """The JSON schema of a topology file."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Topology)))


def _name_key(document: dict[str, Any], path: str) -> str:
    """`spec.images[...].foo` with the key that msgspec leaves out, found by leaving out all but one at a time."""
    above, dots, below = path.partition("[...]")
    if not dots:
        return path
    holder: Any = document
    *steps, last = re.findall(r"[^.\[\]]+", above)
    for step in steps:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    entries = holder[last]
    for key, value in entries.items():
        holder[last] = {key: value}
        try:
            msgspec.convert(document, Topology)
        except msgspec.ValidationError as e:
            if _locate(str(e))[0] == path:
                return f"{above}[{key}]{below}"
    return path


_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>.*)`$", re.DOTALL)


def _locate(message: str) -> tuple[str, str]:
    """msgspec's words ("… - at `$.spec`") as (path, message), with the missing or unknown field part of the path."""
    match = _AT.match(message)
    what, path = (match["what"], match["path"] or "") if match else (message, "")
    for pattern, words in ((_UNKNOWN, "unknown field"), (_MISSING, "is required")):
        if found := pattern.match(what):
            return f"{path}.{found['field']}".lstrip("."), words
    return path, what[:1].lower() + what[1:]
