"""The verbs on objects: what clients may and may not do, and the words that they get."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiservers.memory import CRON_TABS, Memory, config_map, cron_tab, deployment, pod
from stentor.apiserver.errors import AlreadyExists, ApiError, BadRequest, Conflict, Forbidden, Invalid, NotFound


def causes(error: ApiError) -> dict[str, str]:
    return {c["field"]: c["message"] for c in error.details["causes"]}


async def test_create_completes_an_object(memory: Memory) -> None:
    created = await memory.create(pod("a"))
    meta, spec = created["metadata"], created["spec"]
    assert meta["namespace"] == "default"
    assert len(meta["uid"]) == 36
    assert int(meta["resourceVersion"]) == memory.store.revision
    assert (spec["restartPolicy"], spec["dnsPolicy"], spec["schedulerName"]) == (
        "Always",
        "ClusterFirst",
        "default-scheduler",
    )
    assert spec["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert spec["serviceAccountName"] == "default"
    assert [v["projected"]["sources"][1]["configMap"]["name"] for v in spec["volumes"]] == ["kube-root-ca.crt"]
    assert created["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert memory.get("Pod", "a") == created


async def test_create_twice_is_refused(memory: Memory) -> None:
    await memory.create(config_map("a"))
    with pytest.raises(AlreadyExists, match=r'^configmaps "a" already exists$'):
        await memory.create(config_map("a"))


async def test_generate_name_never_collides(memory: Memory) -> None:
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}}
    names = [(await memory.create(document))["metadata"]["name"] for _ in range(20)]
    assert len(set(names)) == 20
    assert all(n.startswith("x-") and len(n) == 7 for n in names)


async def test_a_namespace_must_exist(memory: Memory) -> None:
    document = config_map("a")
    document["metadata"]["namespace"] = "nowhere"
    with pytest.raises(NotFound, match='namespaces "nowhere" not found'):
        await memory.create(document)


async def test_update_needs_the_latest_revision(memory: Memory) -> None:
    first = await memory.create(config_map("a", x="1"))
    second = await memory.update({**first, "data": {"x": "2"}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    with pytest.raises(Conflict, match='Operation cannot be fulfilled on configmaps "a": the object has been modified'):
        await memory.update({**first, "data": {"x": "3"}})
    assert memory.get("ConfigMap", "a")["data"] == {"x": "2"}


async def test_concurrent_updates_lose_nothing(memory: Memory) -> None:
    await memory.create(config_map("a"))

    async def add(number: int) -> None:
        await memory.patch("ConfigMap", "a", {"data": {str(number): "x"}})

    await asyncio.gather(*(add(n) for n in range(50)))
    assert len(memory.get("ConfigMap", "a")["data"]) == 50


async def test_an_update_without_change_writes_nothing(memory: Memory) -> None:
    first = await memory.create(config_map("a", x="1"))
    assert await memory.update(first) == first
    assert (await memory.patch("ConfigMap", "a", {"data": {"x": "1"}})) == first


async def test_status_and_spec_are_written_apart(memory: Memory) -> None:
    created = await memory.create(deployment("d"))
    assert created["metadata"]["generation"] == 1
    wished = {**created, "spec": {**created["spec"], "replicas": 3}, "status": {"replicas": 9}}
    updated = await memory.update(wished)
    assert (updated["spec"]["replicas"], updated["status"], updated["metadata"]["generation"]) == (3, {}, 2)
    status = await memory.update({**updated, "spec": {}, "status": {"replicas": 3}}, sub="status")
    assert (status["spec"]["replicas"], status["status"], status["metadata"]["generation"]) == (3, {"replicas": 3}, 2)


async def test_server_fields_cannot_be_changed(memory: Memory) -> None:
    created = await memory.create(config_map("a"))
    meta = {**created["metadata"], "creationTimestamp": "2000-01-01T00:00:00Z", "generation": 9, "labels": {"a": "b"}}
    updated = await memory.update({**created, "metadata": meta})
    assert updated["metadata"]["creationTimestamp"] == created["metadata"]["creationTimestamp"]
    assert "generation" not in updated["metadata"]
    with pytest.raises(Conflict, match="Precondition failed: UID in precondition: other"):
        await memory.update({**created, "metadata": {**created["metadata"], "uid": "other", "resourceVersion": ""}})


async def test_dry_run_keeps_nothing(memory: Memory) -> None:
    made = await memory.create(config_map("a"), dryRun="All")
    assert made["metadata"]["uid"]
    with pytest.raises(NotFound):
        memory.get("ConfigMap", "a")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}], "clusterIP": "10.96.7.7"},
    }
    await memory.create(service, dryRun="All")
    assert (await memory.create({**service, "metadata": {"name": "t"}}))["spec"]["clusterIP"] == "10.96.7.7"


async def test_finalizers_hold_an_object(memory: Memory) -> None:
    document = config_map("a")
    document["metadata"]["finalizers"] = ["example.org/hold"]
    await memory.create(document)
    state, gone = await memory.delete("ConfigMap", "a")
    assert not gone
    assert state["metadata"]["deletionTimestamp"]
    with pytest.raises(Invalid, match="no new finalizers can be added if the object is being deleted"):
        await memory.patch("ConfigMap", "a", {"metadata": {"finalizers": ["example.org/hold", "example.org/more"]}})
    await memory.patch("ConfigMap", "a", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        memory.get("ConfigMap", "a")


async def test_delete_preconditions(memory: Memory) -> None:
    created = await memory.create(config_map("a"))
    with pytest.raises(Conflict, match="UID in precondition: x"):
        await memory.delete("ConfigMap", "a", preconditions={"uid": "x"})
    _, gone = await memory.delete("ConfigMap", "a", preconditions={"uid": created["metadata"]["uid"]})
    assert gone


async def test_a_running_pod_is_given_time(memory: Memory) -> None:
    await memory.create(pod("a", nodeName="node-1", terminationGracePeriodSeconds=20))
    state, gone = await memory.delete("Pod", "a")
    assert (gone, state["metadata"]["deletionGracePeriodSeconds"]) == (False, 20)
    shorter, gone = await memory.delete("Pod", "a", gracePeriodSeconds=5)
    assert (gone, shorter["metadata"]["deletionGracePeriodSeconds"]) == (False, 5)
    assert (await memory.delete("Pod", "a", gracePeriodSeconds=0))[1]


async def test_an_unscheduled_pod_goes_at_once(memory: Memory) -> None:
    await memory.create(pod("a"))
    assert (await memory.delete("Pod", "a"))[1]


async def test_a_pod_is_bound_to_no_other_account(memory: Memory) -> None:
    with pytest.raises(
        Forbidden, match=r'error looking up service account default/robot: serviceaccount "robot" not found'
    ):
        await memory.create(pod("a", serviceAccountName="robot"))


BAD: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("no container", pod("a", containers=[]), {"spec.containers": "Required value"}),
    (
        "container port out of range",
        pod("a", containers=[{"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}]),
        {"spec.containers[0].ports[0].containerPort": "Invalid value: 70000: must be between 1 and 65535, inclusive"},
    ),
    (
        "two containers of a name",
        pod("a", containers=[{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]),
        {"spec.containers[1].name": 'Duplicate value: "c"'},
    ),
    (
        "mount of no volume",
        pod("a", containers=[{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]),
        {"spec.containers[0].volumeMounts[0].name": 'Not found: "v"'},
    ),
    (
        "restart policy",
        pod("a", restartPolicy="Sometimes"),
        {"spec.restartPolicy": 'Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"'},
    ),
    (
        "selector does not match",
        {**deployment("d"), "spec": {**deployment("d")["spec"], "selector": {"matchLabels": {"app": "other"}}}},
        {"spec.template.metadata.labels": 'Invalid value: {"app":"d"}: `selector` does not match template `labels`'},
    ),
    (
        "config key",
        config_map("a", **{"no/slash": "x"}),
        {
            "data[no/slash]": "Invalid value: \"no/slash\": a valid config key must consist of alphanumeric characters, '-',"
            " '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        },
    ),
    (
        "service ports",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s"},
            "spec": {"ports": [{"port": 80}, {"port": 80, "name": "b"}]},
        },
        {"spec.ports[0].name": "Required value", "spec.ports[1]": 'Duplicate value: {"port":80,"protocol":"TCP"}'},
    ),
    (
        "policy block",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "p"},
            "spec": {
                "podSelector": {},
                "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}],
            },
        },
        {"spec.ingress[0].from[0].ipBlock.except[0]": 'Invalid value: "11.0.0.0/8": must be a strict subset of `cidr`'},
    ),
    (
        "slice address",
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "e"},
            "addressType": "IPv6",
            "endpoints": [{"addresses": ["10.0.0.1"]}],
        },
        {"endpoints[0].addresses[0]": 'Invalid value: "10.0.0.1": must be a valid IPv6 address'},
    ),
]


@pytest.mark.parametrize(("document", "expected"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
async def test_a_wrong_field_is_named(memory: Memory, document: dict[str, Any], expected: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        await memory.create(document)
    assert causes(caught.value) == expected


async def test_a_bad_name_is_explained(memory: Memory) -> None:
    with pytest.raises(Invalid) as caught:
        await memory.create(config_map("Upper"))
    assert causes(caught.value)["metadata.name"].startswith('Invalid value: "Upper": a lowercase RFC 1123 subdomain')


async def test_a_wrong_type_is_a_bad_request(memory: Memory) -> None:
    with pytest.raises(BadRequest, match=r"json: cannot unmarshal .* Deployment.spec.replicas of type integer"):
        await memory.create({**deployment("d"), "spec": {**deployment("d")["spec"], "replicas": "three"}})


async def test_unknown_fields(memory: Memory) -> None:
    document = {**deployment("d"), "spec": {**deployment("d")["spec"], "replicaz": 3}}
    with pytest.raises(BadRequest, match=r'strict decoding error: unknown field "spec.replicaz"'):
        await memory.create(document, fieldValidation="Strict")
    assert "replicaz" not in (await memory.create(document))["spec"]


IMMUTABLE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        deployment("d"),
        {"spec": {"selector": {"matchLabels": {"z": "z"}}, "template": {"metadata": {"labels": {"z": "z"}}}}},
        "spec.selector",
    ),
    (pod("a"), {"spec": {"hostname": "other"}}, "spec"),
    ({**config_map("a", x="1"), "immutable": True}, {"data": {"x": "2"}}, "data"),
]


@pytest.mark.parametrize(("document", "patch", "field"), IMMUTABLE, ids=["selector", "pod spec", "immutable data"])
async def test_immutable_fields(memory: Memory, document: dict[str, Any], patch: dict[str, Any], field: str) -> None:
    await memory.create(document)
    with pytest.raises(Invalid) as caught:
        await memory.patch(document["kind"], document["metadata"]["name"], patch)
    assert field in causes(caught.value)


async def test_a_pods_image_may_change(memory: Memory) -> None:
    await memory.create(pod("a"))
    patch = {"spec": {"containers": [{"name": "c", "image": "example.org/app:2"}]}}
    changed = await memory.patch("Pod", "a", patch, "strategic-merge-patch+json")
    assert changed["spec"]["containers"][0]["image"] == "example.org/app:2"
    assert changed["metadata"]["generation"] == 2


async def test_custom_resources_are_pruned_defaulted_and_validated(memory: Memory) -> None:
    await memory.create(CRON_TABS)
    made = await memory.create(
        cron_tab("a", replicas=3, nonsense=1, free={"x": {"y": 1}}, ports=[{"port": 1}], maybe=None)
    )
    assert made["spec"] == {
        "cronSpec": "* * * * *",
        "image": "busybox",
        "replicas": 3,
        "free": {"x": {"y": 1}},
        "ports": [{"port": 1, "protocol": "TCP"}],
        "maybe": None,
    }
    with pytest.raises(Invalid) as caught:
        await memory.create(
            cron_tab(
                "b", cronSpec="bad", replicas=99, mode="q", port=1.5, ports=[{"port": 1}, {"port": 1}, {"name": "x"}]
            )
        )
    assert causes(caught.value) == {
        "spec.cronSpec": "Invalid value: \"bad\": spec.cronSpec in body should match '^[0-9* /]+$'",
        "spec.replicas": "Invalid value: 99: spec.replicas in body should be less than or equal to 10",
        "spec.mode": 'Unsupported value: "q": supported values: "a", "b"',
        "spec.port": 'Invalid value: "number": spec.port in body must be of type integer,string: "number"',
        "spec.ports[1]": 'Duplicate value: {"port":1,"protocol":"TCP"}',
        "spec.ports[2].port": "Required value",
    }


async def test_custom_resources_need_a_revision_for_updates(memory: Memory) -> None:
    await memory.create(CRON_TABS)
    made = await memory.create(cron_tab("a"))
    del made["metadata"]["resourceVersion"]
    with pytest.raises(Invalid, match=r"metadata\.resourceVersion: Invalid value: 0: must be specified for an update"):
        await memory.update(made)


async def test_a_definition_is_served_at_once(memory: Memory) -> None:
    crd = await memory.create(CRON_TABS)
    assert {c["type"]: c["status"] for c in crd["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    assert crd["spec"]["names"]["singular"] == "crontab"
    assert memory.registry.find("stable.example.com", "v1", "crontabs") is not None


async def test_versions_of_a_custom_resource_share_objects(memory: Memory) -> None:
    first = CRON_TABS["spec"]["versions"][0]
    versions = [{**first, "name": "v1beta1", "storage": False}, first]
    await memory.create({**CRON_TABS, "spec": {**CRON_TABS["spec"], "versions": versions}})
    await memory.create({**cron_tab("a"), "apiVersion": "stable.example.com/v1beta1"})
    assert (
        memory.store.bucket("stable.example.com/crontabs").entries["default", "a"].api_version
        == "stable.example.com/v1"
    )


async def test_events_of_both_groups_are_the_same(memory: Memory) -> None:
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "regarding": {"kind": "Pod", "name": "a", "namespace": "default"},
        "note": "hello",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reason": "Tested",
        "type": "Normal",
    }
    await memory.create(event)
    kept = memory.store.bucket("/events").entries["default", "e"].decode()
    assert (kept["apiVersion"], kept["message"], kept["involvedObject"]["name"]) == ("v1", "hello", "a")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metadata", "spec", "name", "labels", "containers", "ports", "template", "selector", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
KINDS = [
    "Pod",
    "Service",
    "Deployment",
    "Namespace",
    "Node",
    "NetworkPolicy",
    "Job",
    "CustomResourceDefinition",
    "EndpointSlice",
    "Secret",
]


@given(
    kind=st.sampled_from(KINDS),
    document=st.dictionaries(st.sampled_from(["metadata", "spec", "status", "data", "endpoints"]), JSON),
)
async def test_no_document_breaks_the_server(kind: str, document: dict[str, Any]) -> None:
    memory = Memory()
    try:
        resource = memory.resource(kind)
        body = {**document, "apiVersion": resource.api_version, "kind": kind}
        await memory.rest.create(memory.call("create", kind, dryRun="All"), body)
    except ApiError as error:
        assert error.code in (400, 403, 404, 409, 422)
    finally:
        memory.store.close()


FIELDS = st.sampled_from(
    [
        "metadata", "spec", "status", "name", "labels", "annotations", "finalizers", "ownerReferences", "managedFields",
        "resourceVersion", "uid", "containers", "ports", "template", "selector", "strategy", "replicas", "clusterIP",
        "clusterIPs", "ipFamilies", "type", "tolerations", "volumes", "$patch", "$setElementOrder/containers", "x",
    ]
)  # fmt: skip
PATCHES = st.dictionaries(
    FIELDS,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-5, 70000)
        | st.sampled_from(["", "a", "None", "delete", "replace", "10.96.0.5"]),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=3),
        max_leaves=10,
    ),
    max_size=3,
)
MEDIA = ["merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"]
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
OBJECTS = [pod("a"), deployment("a"), SERVICE, config_map("a"), cron_tab("a")]


@settings(max_examples=200)
@given(data=st.data(), media=st.sampled_from(MEDIA), sub=st.sampled_from(["", "", "status"]))
async def test_no_patch_breaks_the_server(data: st.DataObject, media: str, sub: str) -> None:
    memory = await Memory().start()
    await memory.create(CRON_TABS)
    document = data.draw(st.sampled_from(OBJECTS))
    patch = data.draw(PATCHES)
    await memory.create(document)
    if media == "apply-patch+yaml":
        patch = {"apiVersion": document["apiVersion"], "kind": document["kind"], **patch}
    try:
        await memory.patch(
            document["kind"],
            "a",
            patch,
            media,
            sub if document["kind"] != "ConfigMap" else "",
            fieldManager="m",
            force="true",
        )
    except ApiError as error:
        assert error.code in (400, 409, 415, 422)
    finally:
        memory.store.close()
