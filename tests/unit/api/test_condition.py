"""How lists of conditions change."""

from __future__ import annotations

from stentor.api.condition import StatusCondition, settle


def condition(kind: str, status: str, time: str, message: str = "") -> StatusCondition:
    return StatusCondition(type=kind, status=status, reason="r", message=message, last_transition_time=time)


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    present = [condition("b", "True", "old"), condition("theirs", "True", "old"), condition("gone", "True", "old")]
    wanted = [condition("b", "True", "new", "other words"), condition("a", "True", "new")]
    assert settle(present, wanted, {"a", "b", "gone"}) == (
        condition("a", "True", "new"),
        condition("b", "True", "old", "other words"),
        condition("theirs", "True", "old"),
    )


def test_a_condition_whose_status_changes_gets_a_new_time() -> None:
    assert settle([condition("a", "True", "old")], [condition("a", "False", "new")], {"a"}) == (
        condition("a", "False", "new"),
    )
