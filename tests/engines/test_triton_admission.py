"""Slots and queue: nobody is lost, nobody waits beside a free slot, the bound holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ax_engines.triton.admission import Admission, QueueFullError


def test_first_come_first_served() -> None:
    admission: Admission[str] = Admission(slots=1, queue=2)
    assert admission.offer(["a"], None, 0) == ["a"]
    assert admission.offer(["b"], None, 0) == []
    assert admission.offer(["c"], None, 0) == []
    assert (admission.running, admission.waiting) == (1, 2)
    assert admission.release("a", 1) == ["b"]
    assert admission.release("b", 2) == ["c"]


def test_a_full_queue_says_when_to_come_back() -> None:
    admission: Admission[str] = Admission(slots=1, queue=1)
    admission.offer(["a"], None, 0)
    admission.offer(["b"], None, 0)
    with pytest.raises(QueueFullError) as refused:
        admission.offer(["c"], None, 0)
    assert 1 <= refused.value.retry_after <= 60
    assert admission.waiting == 1


def test_the_wait_grows_with_the_time_that_requests_take() -> None:
    admission: Admission[int] = Admission(slots=1, queue=10)
    for number in range(20):
        admission.offer([number], None, number * 100)
        admission.release(number, number * 100 + 40)
    admission.offer([100, 101, 102], None, 5000)
    assert admission.retry_after() == 60


def test_a_request_of_several_choices_is_taken_whole_or_not_at_all() -> None:
    admission: Admission[str] = Admission(slots=2, queue=1)
    assert admission.offer(["a0", "a1", "a2"], None, 0) == ["a0", "a1"]
    with pytest.raises(QueueFullError):
        admission.offer(["b0"], None, 0)
    assert admission.release("a0", 0) == ["a2"]
    assert admission.offer(["b0"], None, 0) == []


def test_without_a_queue_only_free_slots_count() -> None:
    admission: Admission[str] = Admission(slots=1, queue=0)
    assert admission.offer(["a"], None, 0) == ["a"]
    with pytest.raises(QueueFullError):
        admission.offer(["b"], None, 0)
    admission.release("a", 0)
    assert admission.offer(["b"], None, 0) == ["b"]


def test_a_waiting_ticket_can_be_taken_back_and_only_waiting_ones_are_overdue() -> None:
    admission: Admission[str] = Admission(slots=1, queue=3)
    admission.offer(["a"], 5, 0)
    admission.offer(["b"], 5, 0)
    admission.offer(["c"], None, 0)
    assert admission.is_waiting("b")
    assert not admission.is_waiting("a")
    assert admission.overdue(4) == []
    assert admission.overdue(5) == ["b"]
    assert admission.release("b", 5) == []
    assert admission.release("a", 6) == ["c"]
    assert admission.release("unknown", 7) == []


Step = st.tuples(st.sampled_from(["offer", "release"]), st.integers(1, 3), st.integers(0, 30))


@settings(max_examples=300)
@given(st.integers(1, 4), st.integers(0, 4), st.lists(Step, max_size=60))
def test_whatever_happens_nobody_waits_beside_a_free_slot(
    slots: int, queue: int, steps: list[tuple[str, int, int]]
) -> None:
    admission: Admission[int] = Admission(slots, queue)
    taken: list[int] = []
    started: list[int] = []
    ended: set[int] = set()
    number = 0
    for now, (what, count, pick) in enumerate(steps):
        if what == "offer":
            tickets = list(range(number, number + count))
            number += count
            try:
                started += admission.offer(tickets, None, now)
                taken += tickets
            except QueueFullError:
                pass
        elif taken:
            ticket = taken[pick % len(taken)]
            ended.add(ticket)
            started += admission.release(ticket, now)
        assert admission.running <= slots
        assert admission.waiting <= queue
        assert admission.waiting == 0 or admission.running == slots
        assert len(set(started)) == len(started)
        assert started == sorted(started)
    left = [ticket for ticket in taken if ticket not in ended]
    assert admission.running + admission.waiting == len(left)
