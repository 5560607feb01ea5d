"""A container's environment: services, envFrom, env with $(NAME) references, in kubelet's order of precedence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from stentor.api.core import Service
from stentor.api.pod import Container, EnvVar, Pod
from stentor.lab.runner import field
from stentor.lab.runner.errors import StartFailure
from stentor.lab.runner.source import Sources

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
_NAME: Final = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")


def build(
    pod: Pod,
    container: Container,
    image_env: Mapping[str, str],
    sources: Sources,
    services: Iterable[Service],
) -> dict[str, str]:
    """StartFailure (CreateContainerConfigError) when something that is not optional is missing."""
    env = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname(pod), "HOME": "/root", **image_env}
    env |= service_variables(services, pod.metadata.namespace, links=pod.spec.enable_service_links)
    for origin in container.env_from:
        for kind, reference, content in (
            ("configmap", origin.config_map_ref, sources.config_maps),
            ("secret", origin.secret_ref, sources.secrets),
        ):
            if reference is None:
                continue
            data = content.get(reference.name)
            if data is None and not reference.optional:
                raise StartFailure("CreateContainerConfigError", f'{kind} "{reference.name}" not found')
            named = {origin.prefix + key: value for key, value in (data or {}).items()}
            env |= {key: value.decode("utf-8", "replace") for key, value in named.items() if _NAME.fullmatch(key)}
    defined: dict[str, str] = {}
    for variable in container.env:
        value = _value(pod, container, variable, sources, {**env, **defined})
        if value is not None:
            defined[variable.name] = value
    return env | defined


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replaces $(NAME) by its value; an unknown name stays as it is, `$$` is a `$`."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else env.get(name, match[0])

    return _REFERENCE.sub(replace, text)


def hostname(pod: Pod) -> str:
    """What `hostname` says inside: at most 63 characters of the pod's name."""
    return (pod.spec.hostname or pod.metadata.name)[:63].rstrip("-.")


def service_variables(services: Iterable[Service], namespace: str, *, links: bool) -> dict[str, str]:
    """`KUBERNETES_SERVICE_HOST` and the like; without `links` only those of the API server's Service."""
    env: dict[str, str] = {}
    for service in services:
        meta, spec = service.metadata, service.spec
        master = meta.namespace == "default" and meta.name == "kubernetes"
        if not master and (not links or meta.namespace != namespace):
            continue
        if not spec.cluster_ip or spec.cluster_ip == "None" or not spec.ports:
            continue
        prefix = meta.name.upper().replace("-", "_")
        env[f"{prefix}_SERVICE_HOST"] = spec.cluster_ip
        env[f"{prefix}_SERVICE_PORT"] = str(spec.ports[0].port)
        host = f"[{spec.cluster_ip}]" if ":" in spec.cluster_ip else spec.cluster_ip
        for index, port in enumerate(spec.ports):
            if port.name:
                env[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
            protocol = port.protocol.lower()
            url = f"{protocol}://{host}:{port.port}"
            stem = f"{prefix}_PORT_{port.port}_{port.protocol}"
            env |= {
                stem: url,
                f"{stem}_PROTO": protocol,
                f"{stem}_PORT": str(port.port),
                f"{stem}_ADDR": spec.cluster_ip,
            }
            if index == 0:
                env[f"{prefix}_PORT"] = url
    return env


def _value(pod: Pod, container: Container, variable: EnvVar, sources: Sources, env: Mapping[str, str]) -> str | None:
    """None leaves the variable out: an optional key that does not exist."""
    origin = variable.value_from
    if origin is None:
        return expand(variable.value, env)
    try:
        if origin.field_ref is not None:
            return field.field_text(pod, origin.field_ref)
        if origin.resource_field_ref is not None:
            return field.resource_text(pod, container, origin.resource_field_ref)
    except ValueError as e:
        raise StartFailure("CreateContainerConfigError", f"env {variable.name}: {e}") from e
    for kind, selector, content in (
        ("configmap", origin.config_map_key_ref, sources.config_maps),
        ("secret", origin.secret_key_ref, sources.secrets),
    ):
        if selector is None:
            continue
        data = content.get(selector.name)
        if data is not None and selector.key in data:
            return data[selector.key].decode("utf-8", "replace")
        if selector.optional:
            return None
        where = f"{pod.metadata.namespace}/{selector.name}"
        problem = (
            f'{kind} "{selector.name}" not found'
            if data is None
            else f"couldn't find key {selector.key} in {kind} {where}"
        )
        raise StartFailure("CreateContainerConfigError", problem)
    return ""
