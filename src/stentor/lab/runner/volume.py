"""Volumes of a pod as directories of the machine, below `<pod directory>/volumes/<name>`.

Keyed content is written as kubelet writes it: files are links through `..data`, which changes atomically, so that a
reader sees either all old or all new content.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from stentor.api.pod import DownwardFile, KeyedSource, KeyToPath, Pod, ProjectedSource, TokenSource, Volume
from stentor.lab.runner import field
from stentor.lab.runner.errors import StartFailure
from stentor.lab.runner.source import Data, Sources

DEFAULT_MODE: Final = 0o644

# What a pod may see of its machine: nothing that another pod or the host could be hurt by.
_HOST_PATHS: Final = ("/var/log/stentor", "/etc/localtime", "/usr/share", "/lib/modules")

TokenMaker = Callable[[Pod, TokenSource], Awaitable[str]]


class File(msgspec.Struct, frozen=True):
    """Content of one path of a volume."""

    content: bytes
    mode: int = DEFAULT_MODE


class BadVolume(Exception):
    """A volume that cannot be set up now; the message goes into a FailedMount event."""


async def set_up(pod: Pod, directory: Path, sources: Sources, make_token: TokenMaker) -> dict[str, str]:
    """Source path of each volume, by name. BadVolume when one cannot be had; repeating it refreshes the content."""
    paths: dict[str, str] = {}
    for volume in pod.spec.volumes:
        place = directory / "volumes" / volume.name
        try:
            if volume.host_path is not None:
                paths[volume.name] = host_path(volume.host_path.path)
                continue
            place.mkdir(parents=True, exist_ok=True)
            if volume.empty_dir is not None:
                place.chmod(0o777)
            else:
                write_files(place, await _content(pod, volume, sources, make_token))
            if pod.spec.security_context.fs_group is not None:
                os.chown(place, -1, pod.spec.security_context.fs_group)
        except (BadVolume, ValueError, OSError) as e:
            raise BadVolume(f'MountVolume.SetUp failed for volume "{volume.name}" : {e}') from e
        paths[volume.name] = str(place)
    return paths


def host_path(path: str) -> str:
    """BadVolume unless pods of a lab may see it."""
    real = os.path.realpath(path)
    if not any(real == allowed or real.startswith(allowed + "/") for allowed in _HOST_PATHS):
        raise BadVolume(f"hostPath.path: {path}: pods of a lab may see only {', '.join(_HOST_PATHS)}")
    if not os.path.exists(real):
        raise BadVolume(f"hostPath.path: {path}: does not exist")
    return real


def mount_source(volume_path: str, sub_path: str) -> str:
    """Path of a mount's subPath; directories are made as needed. StartFailure when it would leave the volume."""
    if not sub_path:
        return volume_path
    target = os.path.realpath(os.path.join(volume_path, sub_path))
    if target != volume_path and not target.startswith(os.path.realpath(volume_path) + "/"):
        raise StartFailure("CreateContainerConfigError", f"subPath: {sub_path}: leaves the volume")
    if not os.path.exists(target):
        os.makedirs(target, exist_ok=True)
    return target


async def _content(pod: Pod, volume: Volume, sources: Sources, make_token: TokenMaker) -> dict[str, File]:
    if volume.config_map is not None:
        return _keyed("configmap", volume.config_map, sources.config_maps, volume.config_map.default_mode)
    if volume.secret is not None:
        return _keyed("secret", volume.secret, sources.secrets, volume.secret.default_mode)
    if volume.downward_api is not None:
        return _downward(pod, volume.downward_api.items, volume.downward_api.default_mode)
    if volume.projected is not None:
        return await _projected(pod, volume.projected, sources, make_token)
    raise BadVolume("a lab has emptyDir, configMap, secret, downwardAPI, projected and some hostPath volumes only")


async def _projected(pod: Pod, projected: ProjectedSource, sources: Sources, make_token: TokenMaker) -> dict[str, File]:
    files: dict[str, File] = {}
    mode = projected.default_mode
    for part in projected.sources:
        if part.config_map is not None:
            files |= _keyed("configmap", part.config_map, sources.config_maps, mode)
        if part.secret is not None:
            files |= _keyed("secret", part.secret, sources.secrets, mode)
        if part.downward_api is not None:
            files |= _downward(pod, part.downward_api.items, mode)
        if part.service_account_token is not None:
            token = await make_token(pod, part.service_account_token)
            files[part.service_account_token.path] = File(token.encode(), mode or DEFAULT_MODE)
    return files


def _keyed(kind: str, source: KeyedSource, content: Mapping[str, Data], mode: int | None) -> dict[str, File]:
    name = source.secret_name or source.name
    data = content.get(name)
    if data is None:
        if source.optional:
            return {}
        raise BadVolume(f'{kind} "{name}" not found')
    items = source.items or tuple(KeyToPath(key=key, path=key) for key in sorted(data))
    files = {}
    for item in items:
        if item.key in data:
            files[item.path] = File(data[item.key], item.mode or mode or DEFAULT_MODE)
        elif not source.optional:
            raise BadVolume(f"{kind} references non-existent config key: {item.key}")
    return files


def _downward(pod: Pod, items: Iterable[DownwardFile], mode: int | None) -> dict[str, File]:
    files = {}
    for item in items:
        if item.field_ref is not None:
            text = field.field_text(pod, item.field_ref)
        elif item.resource_field_ref is not None:
            text = field.resource_text(pod, None, item.resource_field_ref)
        else:
            continue
        files[item.path] = File(text.encode(), item.mode or mode or DEFAULT_MODE)
    return files


def write_files(place: Path, files: Mapping[str, File]) -> None:
    """Replaces the content of a volume in one step; does nothing when it is the same. ValueError for `..` paths."""
    for name in files:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"path {name!r} leaves the volume")
    link = place / "..data"
    current = place / os.readlink(link) if link.is_symlink() else None
    if current is not None and _read_files(current) == {name: file.content for name, file in files.items()}:
        return
    generation = int(current.name.removeprefix("..")) + 1 if current is not None else 1
    fresh = place / f"..{generation}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, file in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)
    scratch = place / "..data_tmp"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(fresh.name)
    scratch.rename(link)
    _link_names(place, {name.split("/")[0] for name in files})
    if current is not None:
        shutil.rmtree(current, ignore_errors=True)


def _link_names(place: Path, names: set[str]) -> None:
    for entry in os.listdir(place):
        if not entry.startswith("..") and entry not in names:
            (place / entry).unlink()
    for name in names:
        with contextlib.suppress(FileExistsError):
            (place / name).symlink_to(f"..data/{name}")


def _read_files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }
