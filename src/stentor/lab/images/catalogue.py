"""The image catalogue: what runs in a lab when a manifest names an image.

An image is a command on the host's file system, a root directory, or a program that is forked from a warm parent. Names
match under any tag or digest and any registry: the last parts of the reference decide (`docker.io/curlimages/curl:8.5.0`
is `curlimages/curl`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from stentor.lab.images.errors import BadImageFile, UnknownImage

_SLEEP = ("sleep", "infinity")


class Image(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How to run an image. `command` is its entry point and `args` its default arguments, as in a container image.

    `rootfs` is an absolute directory (default: the host's root). `init` puts a small init before the command: for
    programs that leave SIGTERM alone. `warm` names a program in memory (see `stentor.lab.images.warm`), used when
    the manifest gives no command of its own.
    """

    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    rootfs: str = "/"
    env: dict[str, str] = {}
    working_dir: str = "/"
    init: bool = False
    warm: str = ""


_SHELL = Image(args=("sh",), init=True)
_CURL = Image(command=("curl",), init=True)

# By repository without registry: what manifests of examples, tests and Kubernetes' own suites use.
BUILT_IN: Mapping[str, Image] = {
    "gateway-api/conformance/echo-basic": Image(command=("stentor-echo",), warm="echo"),
    "coredns/coredns": Image(command=("stentor-dns",), warm="dns"),
    "pause": Image(command=_SLEEP, init=True),
    "library/nginx": Image(command=("nginx",), args=("-g", "daemon off;")),
    "library/python": Image(command=("python3",), init=True),
    "library/busybox": _SHELL,
    "library/alpine": _SHELL,
    "library/bash": Image(args=("bash",), init=True),
    "library/debian": Image(args=("bash",), init=True),
    "library/ubuntu": Image(args=("bash",), init=True),
    "curlimages/curl": _CURL,
    "cilium/alpine-curl": Image(command=_SLEEP, init=True),
    "nicolaka/netshoot": Image(args=("bash",), init=True),
    "e2e-test-images/busybox": _SHELL,
}


class Catalogue:
    """Built-in images and those of a topology, which win."""

    def __init__(self, extra: Mapping[str, Image] | None = None) -> None:
        self._images = {**BUILT_IN, **{_repository(name): image for name, image in (extra or {}).items()}}

    def find(self, reference: str) -> Image:
        """UnknownImage when nothing matches, or when the host lacks the image's program."""
        parts = _repository(reference).split("/")
        for start in range(len(parts)):
            image = self._images.get("/".join(parts[start:]))
            if image is not None:
                return _available(reference, image)
        if len(parts) == 1:
            image = self._images.get(f"library/{parts[0]}")
            if image is not None:
                return _available(reference, image)
        raise UnknownImage(
            f'image "{reference}" is not in the lab\'s catalogue; map it in the topology: '
            f"spec.images: {{{_repository(reference)}: {{command: [PROGRAM, ARGUMENT…]}}}} or {{rootfs: DIRECTORY}}"
        )


def load_images(path: Path) -> dict[str, Image]:
    """A JSON object of name → image. BadImageFile names the field that is wrong."""
    try:
        images = msgspec.json.decode(path.read_bytes(), type=dict[str, Image])
    except (OSError, msgspec.MsgspecError) as e:
        raise BadImageFile(f"{path}: {e}") from e
    for name, image in images.items():
        if not Path(image.rootfs).is_dir() or not image.rootfs.startswith("/"):
            raise BadImageFile(f"{path}: {name}: rootfs: {image.rootfs} is not an absolute directory")
        if not image.command and not image.args and image.rootfs == "/":
            raise BadImageFile(f"{path}: {name}: neither command nor rootfs")
    return images


def _repository(reference: str) -> str:
    """`registry:5000/a/b:tag@sha256:…` → `registry:5000/a/b`."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def _available(reference: str, image: Image) -> Image:
    program = (image.command or image.args or ("",))[0]
    if image.rootfs == "/" and not image.warm and program and shutil.which(program) is None:
        raise UnknownImage(f'image "{reference}" needs the program "{program}", which is not installed on this host')
    return image
