"""The queue's mechanism, told the time."""

from hypothesis import given
from hypothesis import strategies as st

from ax_operator.control.workqueue import LONGEST, Backlog


def backlog() -> Backlog[str]:
    return Backlog(jitter=lambda: 1.0)


def drain(queue: Backlog[str], now: float) -> list[str]:
    taken = []
    while (key := queue.take(now)) is not None:
        taken.append(key)
    return taken


def test_triggers_for_one_key_collapse():
    queue = backlog()
    for _ in range(100):
        queue.add("a", 0)
    assert drain(queue, 0) == ["a"]
    queue.done("a", 0)
    assert queue.next_in(0) is None


def test_a_key_is_never_worked_on_twice_at_once_and_no_trigger_is_lost():
    queue = backlog()
    queue.add("a", 0)
    assert queue.take(0) == "a"
    queue.add("a", 1)
    assert queue.take(1) is None
    queue.done("a", 2)
    assert queue.take(2) == "a"
    queue.done("a", 3)
    assert queue.take(3) is None


def test_the_earlier_time_wins():
    queue = backlog()
    queue.add("a", 0, after=60)
    queue.add("a", 0, after=5)
    queue.add("a", 0, after=30)
    assert queue.take(4) is None
    assert queue.next_in(4) == 1
    assert queue.take(5) == "a"
    queue.done("a", 5)
    assert drain(queue, 100) == []


def test_keys_come_in_the_order_in_which_they_became_due():
    queue = backlog()
    queue.add("late", 0, after=2)
    queue.add("b", 0)
    queue.add("a", 1)
    assert drain(queue, 3) == ["b", "a", "late"]


def test_who_comes_first_passes_all_that_wait_however_long_they_have_waited():
    queue = backlog()
    for n in range(100):
        queue.add(f"model {n}", 0)
    queue.add("held", 50, after=300)
    queue.add("held", 60, first=True)
    queue.add("held", 61)
    assert queue.next_in(60) == 0
    assert drain(queue, 61)[:2] == ["held", "model 0"]


def test_who_comes_first_and_is_being_worked_on_is_next_again():
    queue = backlog()
    queue.add("held", 0)
    assert queue.take(0) == "held"
    queue.add("other", 1)
    queue.add("held", 2, first=True)
    queue.done("held", 3)
    assert drain(queue, 3) == ["held", "other"]


def test_failures_back_off_and_success_forgets_them():
    queue = backlog()
    queue.add("a", 0)
    now, delays = 0.0, []
    for _ in range(14):
        assert queue.take(now) == "a"
        delays.append(queue.failed("a", now))
        assert queue.take(now + delays[-1] * 0.99) is None
        now += delays[-1]
    assert delays[:4] == [0.5, 1, 2, 4]
    assert delays[-1] == LONGEST
    assert queue.take(now) == "a"
    queue.done("a", now)
    assert queue.failures("a") == 0
    assert queue.next_in(now) is None


def test_a_trigger_does_not_wait_for_the_back_off():
    queue = backlog()
    queue.add("a", 0)
    queue.take(0)
    queue.failed("a", 0)
    queue.add("a", 0.1)
    assert queue.take(0.1) == "a"
    assert queue.failures("a") == 1


def test_jitter_spreads_the_retries_between_half_and_whole():
    for part, want in ((0.0, 0.25), (1.0, 0.5)):
        queue: Backlog[str] = Backlog(jitter=lambda part=part: part)
        queue.add("a", 0)
        queue.take(0)
        assert queue.failed("a", 0) == want


def test_work_may_ask_to_be_called_again():
    queue = backlog()
    queue.add("a", 0)
    queue.take(0)
    queue.done("a", 10, again=5)
    assert queue.take(14) is None
    assert queue.take(15) == "a"


def test_the_oldest_work_is_known():
    queue = backlog()
    assert queue.longest(7) == 0
    queue.add("a", 0)
    queue.add("b", 0)
    queue.take(1)
    queue.take(3)
    assert queue.longest(11) == 10
    queue.done("a", 11)
    assert queue.longest(11) == 8


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "later", "take", "done", "fail", "again"]),
        st.sampled_from("abc"),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_trigger_is_followed_by_work_that_began_after_it(steps):
    queue = backlog()
    now = 0.0
    running: set[str] = set()
    owed: set[str] = set()
    for step, key, seconds in steps:
        now += seconds
        if step in ("add", "later"):
            queue.add(key, now, after=seconds if step == "later" else 0)
            owed.add(key)
        elif step == "take":
            taken = queue.take(now)
            if taken is not None:
                assert taken not in running
                running.add(taken)
                owed.discard(taken)
        elif key in running:
            running.discard(key)
            if step == "fail":
                queue.failed(key, now)
                owed.add(key)
            else:
                queue.done(key, now, again=seconds if step == "again" else None)
    for key in list(running):
        queue.done(key, now)
    assert owed <= set(drain(queue, now + LONGEST + 10))
