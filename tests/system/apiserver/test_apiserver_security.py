"""Who is let in, and what they may do: over real TLS, with real certificates and tokens."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import pytest

from apiservers.memory import pod
from apiservers.process import Server
from stentor.apiserver import pki

NODE, AGENT = "n-one", "a-one"


@pytest.fixture(scope="session")
def users(server: Server) -> Server:
    """The server with a pair for each kind of user in its PKI directory."""
    files = pki.Files(server.pki)
    authority = pki.load_authority(files.read_pair("ca"))
    for name, user, groups in (
        ("node", f"system:node:{NODE}", ("system:nodes",)),
        ("agent", f"system:stentor:agent:{NODE}", ("system:stentor:agents",)),
        ("operator", "system:stentor:operator", ()),
        ("controllers", "system:kube-controller-manager", ()),
        ("scheduler", "system:kube-scheduler", ()),
        ("nobody", "jane", ()),
    ):
        files.write_pair(name, pki.make_client(authority, user, groups))
    files.write_pair("stranger", pki.make_client(pki.make_authority("other"), "kubernetes-admin", ("system:masters",)))
    return server


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version", "/readyz/ping"])
def test_anonymous_sees_health_and_version(users: Server, path: str) -> None:
    assert users.request("GET", path, user="")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/api", "/apis", "/openapi/v3", "/api/v1/namespaces", "/api/v1/namespaces/default/pods/x/log", "/", "/metrics"],
)
def test_anonymous_sees_nothing_else(users: Server, path: str) -> None:
    status, body = users.request("GET", path, user="")
    assert (status, body["reason"]) == (403, "Forbidden")
    assert "system:anonymous" in body["message"]


def test_a_certificate_of_another_authority_is_refused(users: Server) -> None:
    with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
        users.request("GET", "/api/v1/namespaces", user="stranger")


def test_old_tls_is_refused(users: Server) -> None:
    context = users.context("")
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(users.url + "/version", timeout=10, context=context)


def slice_of(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name},
        "addressType": "IPv4",
        "endpoints": [],
    }


def lease(name: str) -> dict[str, Any]:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}}


def node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def marked(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"stentor.io/bgp-secrets": "true"}},
    }


BGP_SECRETS = "/api/v1/namespaces/bgp-secrets/secrets"
ANNOUNCEMENTS = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
PODS = "/api/v1/namespaces/default/pods"
TOKEN_REQUEST = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
MATRIX: list[tuple[str, str, str, Any, bool]] = [
    ("nobody", "GET", "/api", None, True),
    ("nobody", "GET", PODS, None, False),
    ("nobody", "GET", "/api/v1/secrets", None, False),
    ("node", "GET", "/api/v1/pods", None, True),
    ("node", "POST", "/api/v1/nodes", node(NODE), True),
    ("node", "POST", "/api/v1/nodes", node("n-two"), False),
    ("node", "POST", LEASES, lease(NODE), True),
    ("node", "POST", LEASES, lease("n-two"), False),
    ("node", "POST", PODS, pod("mirror", nodeName=NODE), True),
    ("node", "POST", PODS, pod("foreign", nodeName="n-two"), False),
    ("node", "POST", "/api/v1/namespaces/default/serviceaccounts/default/token", TOKEN_REQUEST, True),
    ("node", "POST", "/api/v1/namespaces/kube-system/serviceaccounts/default/token", TOKEN_REQUEST, False),
    ("node", "DELETE", "/api/v1/namespaces/kube-public", None, False),
    ("node", "GET", f"{PODS}/mirror/log", None, False),
    ("agent", "GET", "/api/v1/nodes", None, True),
    ("agent", "GET", "/api/v1/secrets", None, False),
    ("agent", "GET", BGP_SECRETS, None, False),
    ("operator", "POST", "/api/v1/namespaces", marked("bgp-secrets"), True),
    ("agent", "GET", BGP_SECRETS, None, True),
    ("agent", "GET", "/api/v1/namespaces/kube-system/secrets", None, False),
    ("agent", "POST", ANNOUNCEMENTS, lease("cilium-l2announce-default-web"), True),
    ("agent", "GET", ANNOUNCEMENTS, None, True),
    ("agent", "POST", ANNOUNCEMENTS, lease("cilium-operator-resource-lock"), False),
    ("agent", "POST", LEASES, lease("cilium-l2announce-default-web"), False),
    ("agent", "POST", PODS, pod("agents"), False),
    ("agent", "GET", f"{PODS}/mirror/exec?command=sh", None, False),
    ("operator", "GET", "/api/v1/secrets", None, True),
    ("operator", "POST", SLICES, slice_of("operators"), True),
    ("operator", "DELETE", "/api/v1/namespaces/kube-public", None, False),
    ("operator", "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {}, False),
    ("controllers", "POST", SLICES, slice_of("controllers"), True),
    ("controllers", "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {}, False),
    ("controllers", "GET", f"{PODS}/mirror/log", None, False),
    ("scheduler", "GET", "/api/v1/pods", None, True),
    ("scheduler", "POST", SLICES, slice_of("scheduler"), False),
]  # fmt: skip


def test_the_table_of_rights(users: Server) -> None:
    """In order, because later rows need what earlier ones made."""
    wrong = []
    for user, method, path, body, allowed in MATRIX:
        status, answer = users.request(method, path, body, user=user)
        if (status != 403) is not allowed or status >= 500 or (allowed and status >= 400):
            wrong.append((user, method, path, status, answer))
    assert not wrong


def test_an_agent_writes_its_own_objects_only(users: Server) -> None:
    for kind, plural in (("CiliumNode", "ciliumnodes"), ("CiliumEndpoint", "ciliumendpoints")):
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v2", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        scope = "Cluster" if kind == "CiliumNode" else "Namespaced"
        spec = {"group": "cilium.io", "scope": scope, "names": {"plural": plural, "kind": kind}, "versions": [version]}
        crd = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.cilium.io"},
            "spec": spec,
        }
        assert (
            users.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd, user="operator")[0]
            == 201
        )
    for name, where in (("here", NODE), ("there", "n-two")):
        assert users.request("POST", PODS, pod(name, nodeName=where))[0] == 201

    def post(kind: str, path: str, name: str) -> int:
        body = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": {"name": name}}
        return users.request("POST", f"/apis/cilium.io/v2{path}", body, user="agent")[0]

    assert post("CiliumNode", "/ciliumnodes", NODE) == 201
    assert post("CiliumNode", "/ciliumnodes", "n-two") == 403
    endpoints = "/namespaces/default/ciliumendpoints"
    assert post("CiliumEndpoint", endpoints, "here") == 201
    assert post("CiliumEndpoint", endpoints, "there") == 403
    assert post("CiliumEndpoint", endpoints, "nowhere") == 403
    assert users.request("DELETE", f"/apis/cilium.io/v2{endpoints}/here", user="agent")[0] == 200


def test_service_account_tokens(users: Server) -> None:
    users.kubectl("create", "serviceaccount", "robot")
    users.kubectl("create", "-f", "-", stdin=json.dumps(pod("bound", serviceAccountName="robot")))
    uid = users.request("GET", f"{PODS}/bound")[1]["metadata"]["uid"]
    token = users.kubectl("create", "token", "robot", "--bound-object-kind=Pod", "--bound-object-name=bound").strip()

    def get(path: str, text: str = token) -> int:
        return users.request("GET", path, user="", token=text)[0]

    assert get("/apis") == 200
    assert get("/api/v1/namespaces/default/serviceaccounts/robot") == 200
    assert get(f"{PODS}/bound") == 200
    assert get("/api/v1/namespaces/default/serviceaccounts/default") == 403
    assert get("/api/v1/namespaces/default/secrets") == 403
    assert get("/apis", token[:-4] + "AAAA") == 401
    assert get("/apis", "garbage") == 401
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    review = users.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)[1]["status"]
    assert review["user"]["username"] == "system:serviceaccount:default:robot"
    assert review["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [uid]
    users.kubectl("delete", "pod", "bound", "--force", "--grace-period=0")
    assert get("/apis") == 401


def test_who_am_i_and_may_i(users: Server) -> None:
    assert "kubernetes-admin" in users.kubectl("auth", "whoami")
    assert users.kubectl("auth", "can-i", "create", "pods").strip() == "yes"
    spec = {"resourceAttributes": {"verb": "delete", "resource": "nodes", "name": "n-two"}}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert users.request("POST", path, body, user="node")[1]["status"] == {"allowed": False}


def test_admins_may_act_as_others(users: Server) -> None:
    def may(*flags: str) -> str:
        return users.kubectl("auth", "can-i", *flags, check=False).strip()

    assert may("delete", "pods") == "yes"
    assert may("delete", "pods", "--as=jane") == "no"
    assert may("delete", "pods", "--as=jane", "--as-group=system:masters") == "yes"
    assert "cannot delete" in users.kubectl("delete", "namespace", "default", "--as=jane", check=False)
    name = "system:serviceaccount:default:default"
    answer = json.loads(users.kubectl("auth", "whoami", f"--as={name}", "-o", "json"))["status"]["userInfo"]
    assert answer["username"] == name
    assert set(answer["groups"]) == {
        "system:authenticated", "system:serviceaccounts", "system:serviceaccounts:default",
    }  # fmt: skip


def test_nobody_else_acts_as_others(users: Server) -> None:
    for user in ("nobody", "node", "controllers", ""):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(
                urllib.request.Request(users.url + "/version", headers={"Impersonate-User": "kubernetes-admin"}),
                timeout=10,
                context=users.context(user),
            )
