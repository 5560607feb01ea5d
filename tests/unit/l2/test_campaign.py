"""What campaigns write into leases, and how they treat others' ones. That two nodes never answer: tests/property."""

from __future__ import annotations

import random

import msgspec
import pytest

from stentor.api.core import Lease, LeaseSpec
from stentor.api.meta import ObjectMeta
from stentor.l2.campaign import ANSWERS_FOR, NAMESPACE, Campaign, Request, Timing, Verb

NAME = "cilium-l2announce-default-web"
TIMING = Timing(3, 1, 0.2)
JITTER_S = TIMING.retry_s / 4


def lease(holder: str, *, renewed: str = "t0", version: str = "5", notes: dict[str, str] | None = None) -> Lease:
    meta = ObjectMeta(name=NAME, namespace=NAMESPACE, resource_version=version, uid="u", annotations=notes or {})
    spec = LeaseSpec(
        holder_identity=holder, lease_duration_seconds=3, acquire_time="t0", renew_time=renewed, lease_transitions=2
    )
    return Lease(metadata=meta, spec=spec)


def campaign(*known: Lease) -> Campaign:
    made = Campaign("node-1", TIMING, random.Random(1))
    for each in known:
        made.observe(each, 0.0)
    return made


def due(made: Campaign, now: float) -> Request:
    request = made.next(now, "now")
    assert request is not None
    return request


def written(request: Request, version: str = "6") -> Lease:
    assert request.lease is not None
    meta = msgspec.structs.replace(request.lease.metadata, resource_version=version)
    return msgspec.structs.replace(request.lease, metadata=meta)


def test_a_lease_that_nobody_has_is_made() -> None:
    made = campaign()
    made.want({NAME}, {NAME}, 0.0)
    request = due(made, JITTER_S)
    assert (request.verb, request.name) == (Verb.CREATE, NAME)
    assert request.lease is not None
    assert request.lease.spec == LeaseSpec(
        holder_identity="node-1", lease_duration_seconds=3, acquire_time="now", renew_time="now", lease_transitions=0
    )
    assert request.lease.metadata.annotations == {ANSWERS_FOR: "node-1 2.7"}
    made.done(request, written(request), 1.0, 1.5)
    assert made.until(NAME) == pytest.approx(1.0 + 2.7)  # from when it was asked for
    assert made.pause_s(1.5) == pytest.approx(0.5)  # and renewed one deadline after that


def test_renewals_keep_what_others_wrote() -> None:
    made = campaign(lease("node-1", notes={"theirs": "kept"}))
    made.want({NAME}, {NAME}, 0.0)
    request = due(made, JITTER_S)
    assert request.verb is Verb.UPDATE
    assert request.lease is not None
    assert (request.lease.spec.acquire_time, request.lease.spec.renew_time) == ("t0", "now")
    assert request.lease.spec.lease_transitions == 2
    assert request.lease.metadata.annotations["theirs"] == "kept"
    assert request.lease.metadata.resource_version == "5"


@pytest.mark.parametrize(
    ("notes", "wait_s"),
    [
        ({}, 3.0),
        ({ANSWERS_FOR: "node-2 2.7"}, 2.754),
        ({ANSWERS_FOR: "node-3 0.1"}, 3.0),
        ({ANSWERS_FOR: "node-2 forever"}, 3.0),
        ({ANSWERS_FOR: "node-2 nan"}, 3.0),
        ({ANSWERS_FOR: "node-2 99"}, 3.0),
    ],
    ids=["upstreams", "ours", "of-an-earlier-holder", "no-number", "nan", "more-than-the-lease"],
)
def test_how_long_others_are_waited_for(notes: dict[str, str], wait_s: float) -> None:
    made = campaign(lease("node-2", notes=notes))
    made.want({NAME}, {NAME}, 0.0)
    assert made.next(wait_s - 0.001, "now") is None
    request = due(made, wait_s + JITTER_S)
    assert request.lease is not None
    assert (request.verb, request.lease.spec.lease_transitions) == (Verb.UPDATE, 3)
    assert request.lease.metadata.annotations[ANSWERS_FOR] == "node-1 2.7"


def test_a_renewal_seen_starts_the_wait_anew_and_an_annotation_does_not() -> None:
    made = campaign(lease("node-2"))
    made.want({NAME}, {NAME}, 0.0)
    made.observe(lease("node-2", renewed="t1", version="6"), 2.0)
    made.observe(lease("node-2", renewed="t1", version="7", notes={"a": "b"}), 4.0)
    assert made.next(4.9, "now") is None
    request = due(made, 5.1)
    assert request.lease is not None
    assert request.lease.metadata.resource_version == "7"


def test_a_lost_race_is_looked_at_before_it_is_tried_again() -> None:
    made = campaign(lease(""))
    made.want({NAME}, {NAME}, 0.0)
    request = due(made, JITTER_S)
    made.conflicted(request, 0.1)
    look = due(made, 0.1)
    assert look.verb is Verb.READ
    made.done(look, lease("node-2", renewed="t1", version="9"), 0.1, 0.2)
    assert made.next(3.1, "now") is None
    assert (made.holder(NAME), made.until(NAME)) == ("node-2", 0.0)


def test_who_does_not_want_it_any_more_stops_and_releases() -> None:
    made = campaign(lease("node-1"))
    made.want({NAME}, {NAME}, 0.0)
    request = due(made, JITTER_S)
    made.done(request, written(request), 0.1, 0.1)
    made.want(set(), {NAME}, 0.5)
    assert made.until(NAME) == 0.0
    release = due(made, 0.5)
    assert (release.verb, release.lease and release.lease.spec.holder_identity) == (Verb.UPDATE, "")
    made.done(release, written(release, "7"), 0.5, 0.5)
    assert made.next(100.0, "now") is None


def test_leases_of_services_that_are_gone_are_deleted() -> None:
    made = campaign(lease("node-1"), msgspec.structs.replace(lease("node-2"), metadata=ObjectMeta(name="other")))
    made.want(set(), set(), 0.0)
    request = due(made, 0.0)
    assert (request.verb, request.lease and request.lease.metadata.uid) == (Verb.DELETE, "u")
    made.done(request, None, 0.0, 0.0)
    assert made.next(60.0, "now") is None  # the other one's holder may come back, or do it
    assert due(made, 70.0).name == "other"


def test_nothing_is_let_go_before_all_is_known() -> None:
    made = campaign(lease("node-1"))
    made.want(set(), None, 0.0)
    assert made.next(1000.0, "now") is None


def test_failures_are_repeated_after_a_pause_and_end_the_hold() -> None:
    made = campaign(lease("node-1"))
    made.want({NAME}, {NAME}, 0.0)
    request = due(made, JITTER_S)
    made.done(request, written(request), 0.0, 0.0)
    now, tries = 1.0, 0
    while made.until(NAME):
        request = due(made, now)
        made.failed(request, now)
        now, tries = now + made.pause_s(now) + 1e-6, tries + 1
    assert 2.7 <= now <= 3.2
    assert tries >= 8
