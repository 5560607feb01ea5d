"""Service account tokens: JSON Web Tokens (RFC 7519) signed with ES256, with Kubernetes' private claims."""

from __future__ import annotations

import base64
import binascii
import time
import uuid
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
MIN_LIFETIME_S: Final = 600
_MAX_LIFETIME_S: Final = 1 << 32
_COORDINATE_BYTES: Final = 32
_HEADER: Final = {"alg": "ES256", "typ": "JWT", "kid": "stentor"}


class TokenError(Exception):
    """The token is malformed, forged, expired or for somebody else."""


class Bound(msgspec.Struct, frozen=True):
    """An object that a token lives and dies with."""

    kind: str
    name: str
    uid: str


class Claims(msgspec.Struct, frozen=True):
    """What a valid token says."""

    namespace: str
    name: str
    uid: str
    audiences: tuple[str, ...]
    expires: int
    """Unix seconds."""
    token_id: str = ""
    bound: Bound | None = None

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}"


class Signer:
    """Makes and checks tokens with one key."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = key.public_key()

    def sign(self, claims: Claims, *, now: float | None = None) -> str:
        """The token's text."""
        issued = int(time.time() if now is None else now)
        private: dict[str, Any] = {
            "namespace": claims.namespace,
            "serviceaccount": {"name": claims.name, "uid": claims.uid},
        }
        if claims.bound is not None:
            private[claims.bound.kind.lower()] = {"name": claims.bound.name, "uid": claims.bound.uid}
        payload = {
            "iss": ISSUER,
            "sub": claims.user,
            "aud": list(claims.audiences),
            "iat": issued,
            "nbf": issued,
            "exp": claims.expires,
            "jti": claims.token_id or str(uuid.uuid4()),
            "kubernetes.io": private,
        }
        text = f"{_encode(msgspec.json.encode(_HEADER))}.{_encode(msgspec.json.encode(payload))}"
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
        return f"{text}.{_encode(signature)}"

    def verify(self, token: str, audience: str = ISSUER, *, now: float | None = None) -> Claims:
        """What the token says. Raises TokenError."""
        text, _, signature = token.rpartition(".")
        try:
            header, payload = (msgspec.json.decode(_decode(part)) for part in text.split("."))
            raw = _decode(signature)
        except (ValueError, binascii.Error, msgspec.DecodeError) as fault:
            raise TokenError("malformed token") from fault
        if not isinstance(header, dict) or not isinstance(payload, dict) or header.get("alg") != "ES256":
            raise TokenError("unsupported token")
        self._check_signature(text, raw)
        moment = time.time() if now is None else now
        claims = _parse(payload)
        if payload.get("iss") != ISSUER or audience not in claims.audiences:
            raise TokenError("the token is for somebody else")
        if not _number(payload, "nbf") <= moment + 1 or moment >= claims.expires:
            raise TokenError("the token has expired")
        return claims

    def _check_signature(self, text: str, raw: bytes) -> None:
        if len(raw) != 2 * _COORDINATE_BYTES:
            raise TokenError("malformed signature")
        r, s = int.from_bytes(raw[:_COORDINATE_BYTES], "big"), int.from_bytes(raw[_COORDINATE_BYTES:], "big")
        try:
            self._public.verify(encode_dss_signature(r, s), text.encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as fault:
            raise TokenError("wrong signature") from fault


def clamp_lifetime(seconds: int) -> int:
    """Seconds that a token may live, whatever was asked for."""
    return max(MIN_LIFETIME_S, min(seconds, _MAX_LIFETIME_S))


def _parse(payload: dict[str, Any]) -> Claims:
    try:
        private = payload["kubernetes.io"]
        account = private["serviceaccount"]
        audience = payload["aud"]
        bound = next(
            (
                Bound(k.capitalize(), private[k]["name"], private[k]["uid"])
                for k in ("pod", "secret", "node")
                if k in private
            ),
            None,
        )
        return Claims(
            namespace=str(private["namespace"]),
            name=str(account["name"]),
            uid=str(account["uid"]),
            audiences=tuple([audience] if isinstance(audience, str) else audience),
            expires=_number(payload, "exp"),
            token_id=str(payload.get("jti", "")),
            bound=bound,
        )
    except (KeyError, TypeError) as fault:
        raise TokenError("the token lacks claims") from fault


def _number(payload: dict[str, Any], name: str) -> int:
    value = payload.get(name)
    if not isinstance(value, int):
        raise TokenError(f"{name} is not a number")
    return value


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
