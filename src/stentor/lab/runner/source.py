"""ConfigMaps and Secrets that a pod refers to, fetched before it starts and again for its volumes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping

import msgspec

from stentor.api.core import CONFIG_MAPS, SECRETS, ConfigMap, Secret
from stentor.api.pod import Container, KeyedSource, Pod, Volume
from stentor.kube.client import Client
from stentor.kube.errors import NotFound

Data = Mapping[str, bytes]


class Sources(msgspec.Struct, frozen=True):
    """Content by name; a name that is missing does not exist."""

    config_maps: dict[str, Data] = {}
    secrets: dict[str, Data] = {}


def references(pod: Pod) -> tuple[set[str], set[str]]:
    """Names of the ConfigMaps and Secrets that a pod uses anywhere."""
    config_maps: set[str] = set()
    secrets: set[str] = set()
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        _add_environment(container, config_maps, secrets)
    for volume in pod.spec.volumes:
        for config_map, secret in _volume_parts(volume):
            if config_map is not None:
                config_maps.add(config_map.name)
            if secret is not None:
                secrets.add(secret.secret_name or secret.name)
    return config_maps, secrets


def _add_environment(container: Container, config_maps: set[str], secrets: set[str]) -> None:
    for source in container.env_from:
        if source.config_map_ref is not None:
            config_maps.add(source.config_map_ref.name)
        if source.secret_ref is not None:
            secrets.add(source.secret_ref.name)
    for variable in container.env:
        origin = variable.value_from
        if origin is not None and origin.config_map_key_ref is not None:
            config_maps.add(origin.config_map_key_ref.name)
        if origin is not None and origin.secret_key_ref is not None:
            secrets.add(origin.secret_key_ref.name)


def _volume_parts(volume: Volume) -> Iterator[tuple[KeyedSource | None, KeyedSource | None]]:
    yield volume.config_map, volume.secret
    if volume.projected is not None:
        for part in volume.projected.sources:
            yield part.config_map, part.secret


async def fetch(client: Client, pod: Pod) -> Sources:
    """All content that the pod refers to. ApiError when the server cannot be asked."""
    config_names, secret_names = references(pod)
    namespace = pod.metadata.namespace
    config_maps: dict[str, Data] = {}
    secrets: dict[str, Data] = {}
    for name in config_names:
        try:
            config_maps[name] = config_map_data(await client.get(CONFIG_MAPS, name, namespace))
        except NotFound:
            continue
    for name in secret_names:
        try:
            secrets[name] = secret_data(await client.get(SECRETS, name, namespace))
        except NotFound:
            continue
    return Sources(config_maps, secrets)


def config_map_data(obj: ConfigMap) -> Data:
    return {key: value.encode() for key, value in obj.data.items()} | _decoded(obj.binary_data)


def secret_data(obj: Secret) -> Data:
    return _decoded(obj.data)


def _decoded(values: Mapping[str, str]) -> dict[str, bytes]:
    found = {}
    for key, value in values.items():
        try:
            found[key] = base64.b64decode(value)
        except binascii.Error:
            continue  # the API server refuses such objects: only a broken one could send it
    return found
