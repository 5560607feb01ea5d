"""Writes src/stentor/apiserver/data/protobuf.json.gz: field numbers of the messages that kubectl sends.

kubectl's creating commands send protobuf, whose field numbers no OpenAPI document holds. Every Go program with the
generated types carries their file descriptors (gzip'd FileDescriptorProto); this scans the kubectl binary for them:

    tools/gen_kubernetes_protobuf.py [.venv/bin/kubectl]
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stentor.apiserver.builtin import REQUEST_KINDS, ROWS
from stentor.apiserver.protobuf import ROOTS, message_name, read_fields

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "src/stentor/apiserver/data/protobuf.json.gz"
SCALARS = {1: "d", 2: "f", 3: "i", 4: "i", 5: "i", 8: "b", 9: "s", 11: "m", 12: "y", 13: "i"}
REPEATED = 3
MESSAGE = 11
# Field numbers of descriptor.proto.
FILE_NAME, FILE_PACKAGE, FILE_MESSAGE = 1, 2, 4
MESSAGE_NAME, MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_OPTIONS, OPTIONS_MAP_ENTRY = 1, 2, 3, 7, 7
FIELD_NAME, FIELD_NUMBER, FIELD_LABEL, FIELD_TYPE, FIELD_TYPE_NAME = 1, 3, 4, 5, 6


def descriptors(binary: bytes) -> Iterator[bytes]:
    """Every Kubernetes FileDescriptorProto in `binary`, uncompressed."""
    at = -1
    while (at := binary.find(b"\x1f\x8b\x08", at + 1)) >= 0:
        stream = zlib.decompressobj(31)
        try:
            raw = stream.decompress(binary[at : at + 400_000])
        except zlib.error:
            continue
        if stream.eof and b"k8s.io/" in raw[:10]:
            yield raw


def groups(raw: bytes) -> dict[int, list[Any]]:
    out: dict[int, list[Any]] = {}
    for number, value in read_fields(raw):
        out.setdefault(number, []).append(value)
    return out


def text(fields: dict[int, list[Any]], number: int) -> str:
    return bytes(fields[number][0]).decode() if number in fields else ""


def collect(prefix: str, raw: bytes, table: dict[str, dict[int, list[str]]]) -> None:
    """Add one DescriptorProto and those nested in it."""
    message = groups(raw)
    name = f"{prefix}.{text(message, MESSAGE_NAME)}"
    nested = [bytes(n) for n in message.get(MESSAGE_NESTED, ())]
    entries: dict[str, bytes] = {}
    for child in nested:
        options = groups(groups(child).get(MESSAGE_OPTIONS, [b""])[0])
        if options.get(OPTIONS_MAP_ENTRY):
            entries[f"{name}.{text(groups(child), MESSAGE_NAME)}"] = child
        else:
            collect(name, child, table)
    table[name] = {}
    for field in map(groups, message.get(MESSAGE_FIELD, ())):
        number, kind = field[FIELD_NUMBER][0], field[FIELD_TYPE][0]
        target = text(field, FIELD_TYPE_NAME).lstrip(".")
        if kind == MESSAGE and target in entries:
            value = groups(groups(entries[target])[MESSAGE_FIELD][1])
            row = ["M" + SCALARS[value[FIELD_TYPE][0]], text(value, FIELD_TYPE_NAME).lstrip(".")]
        else:
            row = [("r" if field[FIELD_LABEL][0] == REPEATED else "") + SCALARS[kind], target]
        table[name][number] = [text(field, FIELD_NAME), row[0], *([row[1]] if row[1] else [])]


def closure(table: dict[str, dict[int, list[str]]], roots: set[str]) -> dict[str, Any]:
    todo, out = list(roots), {}
    while todo:
        name = todo.pop()
        if name not in out:
            out[name] = table[name]
            todo.extend(field[2] for field in table[name].values() if len(field) > 2)
    return dict(sorted(out.items()))


def build(kubectl: Path) -> dict[str, Any]:
    """The data file's content."""
    version = json.loads(subprocess.check_output([kubectl, "version", "--client", "-o", "json"]))
    table: dict[str, dict[int, list[str]]] = {}
    for raw in descriptors(kubectl.read_bytes()):
        file = groups(raw)
        for message in file.get(FILE_MESSAGE, ()):
            collect(text(file, FILE_PACKAGE), message, table)
    served = {message_name(r.group, r.version, r.kind) for r in ROWS if r.group != "apiextensions.k8s.io"}
    served |= {message_name(*gvk) for gvk in REQUEST_KINDS} | set(ROOTS)
    return {
        "generator": "tools/gen_kubernetes_protobuf.py",
        "input": f"kubectl {version['clientVersion']['gitVersion']}",
        "licence": "Apache-2.0",
        "messages": closure(table, served),
    }


def main(arguments: list[str]) -> int:
    document = build(Path(arguments[0]) if arguments else ROOT / ".venv/bin/kubectl")
    TARGET.write_bytes(gzip.compress(json.dumps(document, separators=(",", ":")).encode(), 9, mtime=0))
    print(f"{TARGET}: {len(document['messages'])} messages, {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
