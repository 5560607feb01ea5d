"""ServiceAccount tokens of pods, asked for with TokenRequest and renewed before they expire (as kubelets do)."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from stentor.api.core import SERVICE_ACCOUNTS
from stentor.api.pod import Pod, TokenSource
from stentor.kube.client import Client
from stentor.lab.runner import clock

_RENEW_AT: Final = 0.8


class _Status(msgspec.Struct, rename="camel"):
    token: str
    expiration_timestamp: str


class _TokenRequest(msgspec.Struct):
    status: _Status


class _Held(msgspec.Struct, frozen=True):
    token: str
    renew_at_s: float


class TokenCache:
    """Tokens by pod and audience."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._held: dict[tuple[str, str, int], _Held] = {}

    async def get(self, pod: Pod, source: TokenSource) -> str:
        """A token with more than a fifth of its life left. ApiError when the server gives none."""
        key = (pod.metadata.uid, source.audience, source.expiration_seconds)
        held = self._held.get(key)
        if held is not None and time.time() < held.renew_at_s:
            return held.token
        status = await self._request(pod, source)
        now_s, end_s = time.time(), clock.parse(status.expiration_timestamp) / 1e9
        self._held[key] = _Held(status.token, now_s + (end_s - now_s) * _RENEW_AT)
        return status.token

    def forget(self, uid: str) -> None:
        for key in [key for key in self._held if key[0] == uid]:
            del self._held[key]

    async def _request(self, pod: Pod, source: TokenSource) -> _Status:
        meta = pod.metadata
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [source.audience] if source.audience else [],
                "expirationSeconds": source.expiration_seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid},
            },
        }
        account = pod.spec.service_account_name or "default"
        path = SERVICE_ACCOUNTS.path(meta.namespace, account, "token")
        answer = await self._client.request("POST", path, body=msgspec.json.encode(body))
        return msgspec.json.decode(answer, type=_TokenRequest).status
