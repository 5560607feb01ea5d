"""The JSON edge: objects, lists, events and errors of the API server."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.api.core import NODES, Node
from stentor.api.meta import ObjectMeta
from stentor.api.workload import DEPLOYMENTS
from stentor.kube import raw
from stentor.kube.errors import (
    AlreadyExists,
    ApiError,
    BadInput,
    Cause,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    Retryable,
)

STATUS = (
    b'{"kind":"Status","message":"m","reason":"%b","code":%d,"details":{"causes":[{"field":"spec.x","message":"bad"}]}}'
)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, b"BadRequest", BadInput),
        (401, b"Unauthorized", Forbidden),
        (403, b"Forbidden", Forbidden),
        (404, b"NotFound", NotFound),
        (409, b"AlreadyExists", AlreadyExists),
        (409, b"Conflict", Conflict),
        (410, b"Expired", Gone),
        (422, b"Invalid", BadInput),
        (429, b"TooManyRequests", Retryable),
        (500, b"InternalError", Retryable),
        (503, b"ServiceUnavailable", Retryable),
    ],
)
def test_errors_say_what_the_caller_can_do(status: int, reason: bytes, kind: type[ApiError]) -> None:
    error = raw.decode_error(status, STATUS % (reason, status))
    assert type(error) is kind
    assert (error.message, error.status) == ("m", status)


def test_causes_name_the_fields() -> None:
    assert raw.decode_error(422, STATUS % (b"Invalid", 422)).causes == (Cause("spec.x", "bad"),)


def test_text_of_a_proxy_is_an_error_too() -> None:
    error = raw.decode_error(502, b"<html>bad gateway</html>")
    assert isinstance(error, Retryable)
    assert "bad gateway" in error.message


def test_one_bad_object_does_not_hide_the_others() -> None:
    items = b'{"metadata":{"name":"a"}},{"metadata":{"name":3}},{"metadata":{"name":"b"}}'
    body = b'{"metadata":{"resourceVersion":"7"},"items":[%b]}' % items
    page, faults = raw.decode_list(NODES, body)
    assert [node.metadata.name for node in page.items] == ["a", "b"]
    assert page.resource_version == "7"
    assert len(faults) == 1
    assert "metadata.name" in faults[0]


def test_of_a_bookmark_only_the_version_counts() -> None:
    """Whatever its type requires is missing."""
    line = (
        b'{"type":"BOOKMARK","object":{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"resourceVersion":"9"}}}'
    )
    event = raw.decode_event(DEPLOYMENTS, line)
    assert (event.type, event.resource_version, event.object) == (raw.EventType.BOOKMARK, "9", None)


def test_an_error_event_is_raised() -> None:
    line = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}'
    with pytest.raises(Gone, match="too old"):
        raw.decode_event(NODES, line)


def test_objects_carry_version_and_kind() -> None:
    document = msgspec.json.decode(raw.encode(NODES, Node(metadata=ObjectMeta(name="n"))))
    assert document == {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    assert msgspec.json.decode(raw.encode(NODES, Node())) == {"apiVersion": "v1", "kind": "Node"}


@given(st.binary(max_size=200))
def test_garbage_is_bad_input(body: bytes) -> None:
    for decode in (raw.decode, raw.decode_list, raw.decode_event):
        try:
            decode(NODES, body)
        except (BadInput, ApiError):
            continue
