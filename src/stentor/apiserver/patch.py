"""JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7396)."""

from __future__ import annotations

from typing import Any

from stentor.apiserver.errors import BadRequest, EntityTooLarge, Unprocessable
from stentor.apiserver.schema import MISSING, copy_json

MAX_OPERATIONS = 10_000


def merge_patch(original: Any, patch: Any) -> Any:
    """The merged value; neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    out = dict(original) if isinstance(original, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def json_patch(original: Any, operations: Any) -> Any:
    """The patched copy. Raises BadRequest for what is no patch, Unprocessable for one that does not apply."""
    if not isinstance(operations, list) or not all(isinstance(o, dict) for o in operations):
        raise BadRequest("error decoding patch: a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise EntityTooLarge(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        )
    document = copy_json(original)
    for operation in operations:
        document = _apply(document, operation)
    return document


def _apply(document: Any, operation: dict[str, Any]) -> Any:
    name, path = operation.get("op"), operation.get("path")
    if not isinstance(path, str):
        raise BadRequest("error decoding patch: an operation needs a path")
    if name in ("move", "copy"):
        source = operation.get("from")
        if not isinstance(source, str):
            raise BadRequest(f'error decoding patch: operation "{name}" needs from')
        value = copy_json(_get(document, source))
        if name == "move":
            document = _remove(document, source)
        return _add(document, path, value)
    if name == "remove":
        return _remove(document, path)
    if name not in ("add", "replace", "test"):
        raise BadRequest(f"error decoding patch: unknown operation {name!r}")
    if "value" not in operation and name != "test":
        raise BadRequest(f'error decoding patch: operation "{name}" needs a value')
    value = copy_json(operation.get("value"))
    if name == "test":
        if _get(document, path, None) != value:
            raise Unprocessable(f"testing value {path} failed")
        return document
    if name == "add":
        return _add(document, path, value)
    _get(document, path)
    return _add(_remove(document, path), path, value) if path else value


def _tokens(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise Unprocessable(f'JSON pointer "{path}" must start with "/"')
    return [t.replace("~1", "/").replace("~0", "~") for t in path.split("/")[1:]]


def _index(token: str, length: int, path: str) -> int:
    if not token.isascii() or not token.isdigit() or int(token) >= length:
        raise Unprocessable(f"unable to access invalid index {token}: {path}")
    return int(token)


def _get(document: Any, path: str, missing: Any = MISSING) -> Any:
    for token in _tokens(path):
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list):
            document = document[_index(token, len(document), path)]
        elif missing is not MISSING:
            return missing
        else:
            raise Unprocessable(f"operation does not apply: doc is missing path: {path}")
    return document


def _parent(document: Any, path: str) -> tuple[Any, str]:
    last = _tokens(path)[-1]
    parent = _get(document, path.rpartition("/")[0])
    if not isinstance(parent, dict | list):
        raise Unprocessable(f"operation does not apply: doc is missing path: {path}")
    return parent, last


def _add(document: Any, path: str, value: Any) -> Any:
    if not path:
        return value
    parent, last = _parent(document, path)
    if isinstance(parent, dict):
        parent[last] = value
    else:
        parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1, path), value)
    return document


def _remove(document: Any, path: str) -> Any:
    if not path:
        return None
    parent, last = _parent(document, path)
    if isinstance(parent, list):
        del parent[_index(last, len(parent), path)]
    elif last in parent:
        del parent[last]
    else:
        raise Unprocessable(f"operation does not apply: unable to remove nonexistent key: {last}: missing value")
    return document
