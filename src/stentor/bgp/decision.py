"""Route selection (RFC 4271 §9.1.2.2): which of several paths to one prefix is best, and why the others are not.

Steps in order: long-lived stale paths last (RFC 9494 §4.3) · LOCAL_PREF · local before learned · AS_PATH length · ORIGIN ·
MED among paths of one neighbouring AS · eBGP before iBGP · metric to the next hop · BGP identifier (ORIGINATOR_ID) ·
CLUSTER_LIST length (RFC 4456 §9) · peer address · path identifier. The same paths give the same answer in any order.
"""

from collections.abc import Sequence
from enum import IntEnum

import msgspec

from stentor.bgp.attribute import LLGR_STALE, Attributes, first_as, path_length

DEFAULT_LOCAL_PREF = 100


class Scope(IntEnum):
    """Where a path comes from, most preferred first."""

    LOCAL = 0
    EXTERNAL = 1
    INTERNAL = 2


class Source(msgspec.Struct, frozen=True, eq=False):
    """The origin of paths: our own routes or one session of a peer. ``address`` is 4 or 16 octets, empty for our own."""

    name: str
    scope: Scope
    asn: int = 0
    identifier: int = 0
    address: bytes = b""


class Path(msgspec.Struct, frozen=True, eq=False):
    """One way to reach prefixes; paths are interned, so that identity is equality. ``tags`` select local routes in policies."""

    source: Source
    attributes: Attributes
    path_id: int = 0
    tags: tuple[str, ...] = ()
    metric: int = 0


_STEPS = (
    "long-lived stale",
    "lower local preference",
    "learned, not our own",
    "longer AS path",
    "worse origin",
    "higher MED",
    "iBGP, not eBGP",
    "higher metric to the next hop",
    "higher BGP identifier",
    "longer cluster list",
    "higher peer address",
    "higher path identifier",
)
_MED = 5


def _early(path: Path) -> tuple[int, int, int, int, int]:
    attributes = path.attributes
    preference = attributes.local_pref if attributes.local_pref is not None else DEFAULT_LOCAL_PREF
    return (
        LLGR_STALE in attributes.communities,
        -preference,
        path.source.scope is not Scope.LOCAL,
        path_length(attributes.as_path),
        attributes.origin,
    )


def _late(path: Path) -> tuple[bool, int, int, int, bytes, int]:
    attributes, source = path.attributes, path.source
    identifier = source.identifier
    if attributes.originator_id is not None:
        identifier = int.from_bytes(attributes.originator_id, "big")
    clusters = len(attributes.cluster_list)
    return (
        source.scope is Scope.INTERNAL,
        path.metric,
        identifier,
        clusters,
        source.address.rjust(16, b"\0"),
        path.path_id,
    )


def _med(path: Path) -> int:
    return path.attributes.med or 0


def _survivors(paths: Sequence[Path]) -> list[Path]:
    """Paths left after ORIGIN and MED; MED compares only within a neighbouring AS (§9.1.2.2 c)."""
    first = min(map(_early, paths))
    left = [path for path in paths if _early(path) == first]
    if len(left) == 1:
        return left
    lowest: dict[int | None, int] = {}
    for path in left:
        group = first_as(path.attributes.as_path)
        lowest[group] = min(lowest.get(group, _med(path)), _med(path))
    return [path for path in left if _med(path) == lowest[first_as(path.attributes.as_path)]]


def select(paths: Sequence[Path]) -> Path:
    """The best of at least one path."""
    return paths[0] if len(paths) == 1 else min(_survivors(paths), key=_late)


def rank(paths: Sequence[Path], limit: int) -> list[Path]:
    """The ``limit`` best paths, best first: each is the best of what the former leave."""
    left = list(paths)
    ranked: list[Path] = []
    while left and len(ranked) < limit:
        best = select(left)
        ranked.append(best)
        left = [path for path in left if path is not best]
    return ranked


def find_equal(paths: Sequence[Path], limit: int) -> list[Path]:
    """The members of an ECMP route: the best path and those that differ from it only in who announced them."""
    best = select(paths)
    wanted = (_early(best), _late(best)[:2])
    equal = [path for path in _survivors(paths) if (_early(path), _late(path)[:2]) == wanted and path is not best]
    return [best, *sorted(equal, key=_late)][:limit]


def explain(winner: Path, loser: Path) -> str:
    """The step that decided against ``loser``."""
    mine, theirs = _early(winner), _early(loser)
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        if a != b:
            return _STEPS[step]
    same_neighbour = first_as(winner.attributes.as_path) == first_as(loser.attributes.as_path)
    if same_neighbour and _med(winner) < _med(loser):
        return _STEPS[_MED]
    for step, (c, d) in enumerate(zip(_late(winner), _late(loser), strict=True)):
        if c != d:
            return _STEPS[_MED + 1 + step]
    return "the same path"
