"""Who a request comes from: client certificate first, then bearer token, else anonymous."""

from __future__ import annotations

import ssl
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from stentor.apiserver.authorization import ACCOUNT_PREFIX, ADMINS
from stentor.apiserver.errors import BadRequest, Forbidden, Unauthorized
from stentor.apiserver.request import ANONYMOUS, User
from stentor.apiserver.store import Store
from stentor.apiserver.token import Claims, Signer, TokenError

_AUTHENTICATED = "system:authenticated"
_BUCKETS = {"Pod": "/pods", "Secret": "/secrets", "Node": "/nodes"}


class Authenticator:
    """Certificates were verified against the authority by TLS; tokens are verified here."""

    def __init__(self, signer: Signer, store: Store) -> None:
        self._signer = signer
        self._store = store

    def authenticate(self, request: web.BaseRequest) -> User:
        """Raises Unauthorized for credentials that are not good, Forbidden for others' names; none are anonymous."""
        return _impersonated(self._authenticate(request), request.headers)

    def _authenticate(self, request: web.BaseRequest) -> User:
        authorization = request.headers.get("Authorization", "")
        user = _certificate_user(request)
        if user is not None:
            return user
        if not authorization:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized()
        try:
            return self.token_user(token.strip())
        except TokenError as fault:
            raise Unauthorized() from fault

    def token_user(self, token: str) -> User:
        """The user of a service account token. Raises TokenError, also when what it is bound to is gone."""
        claims = self._signer.verify(token)
        self._check_alive(claims)
        extra: dict[str, list[str]] = {}
        if claims.bound is not None and claims.bound.kind == "Pod":
            extra["authentication.kubernetes.io/pod-name"] = [claims.bound.name]
            extra["authentication.kubernetes.io/pod-uid"] = [claims.bound.uid]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{claims.namespace}", _AUTHENTICATED)
        return User(claims.user, frozenset(groups), claims.uid, extra)

    def _check_alive(self, claims: Claims) -> None:
        account = self._store.get("/serviceaccounts", (claims.namespace, claims.name))
        if account is None or account.uid != claims.uid:
            raise TokenError("the service account is gone")
        bound = claims.bound
        if bound is None:
            return
        namespace = "" if bound.kind == "Node" else claims.namespace
        entry = self._store.get(_BUCKETS[bound.kind], (namespace, bound.name))
        if entry is None or entry.uid != bound.uid:
            raise TokenError(f"the {bound.kind} that the token is bound to is gone")


def _impersonated(user: User, headers: MultiMapping[str]) -> User:
    """Whom an admin acts as (`kubectl --as`). Raises Forbidden for everybody else who tries, BadRequest without a name."""
    wanted = {name for name in headers if name.lower().startswith("impersonate-")}
    if not wanted:
        return user
    name = headers.get("Impersonate-User", "")
    if not name:
        raise BadRequest(f"requested {sorted(wanted)} without impersonating a user")
    if ADMINS not in user.groups:
        details = {"name": name, "kind": "users"}
        raise Forbidden(f'users "{name}" is forbidden: User "{user.name}" cannot impersonate resource "users"', details)
    if name == ANONYMOUS.name:
        return ANONYMOUS
    groups = set(headers.getall("Impersonate-Group", ()))
    if not groups and name.startswith(ACCOUNT_PREFIX):
        namespace = name.removeprefix(ACCOUNT_PREFIX).partition(":")[0]
        groups = {"system:serviceaccounts", f"system:serviceaccounts:{namespace}"}
    return User(name, frozenset(groups | {_AUTHENTICATED}), headers.get("Impersonate-Uid", ""))


_users: dict[bytes, User | None] = {}
_MAX_USERS = 4096


def _certificate_user(request: web.BaseRequest) -> User | None:
    """The subject of the client's certificate, parsed once a certificate."""
    transport = request.transport
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object") if transport is not None else None
    encoded = connection.getpeercert(binary_form=True) if connection is not None else None
    if connection is None or encoded is None:
        return None
    if encoded not in _users:
        if len(_users) >= _MAX_USERS:
            _users.clear()
        _users[encoded] = _parse_subject(connection.getpeercert() or {})
    return _users[encoded]


def _parse_subject(certificate: dict[str, Any]) -> User | None:
    name, groups = "", [_AUTHENTICATED]
    for names in certificate.get("subject", ()):
        for key, value in names:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    return User(name, frozenset(groups)) if name else None
