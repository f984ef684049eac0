"""Kills, stops, dead watches and many models: the end is always the same world."""

import asyncio

from ax_operator.kinds import AXENGINE, AXMODEL, DEPLOYMENT, SERVICE
from tests.control.house import House, model
from tests.fakes import Crash


async def story(house: House, crash_at: int | None = None) -> None:
    """Two models that share an engine, one of them changed and the other removed, with a kill somewhere."""
    await house.start()
    house.cluster.crash_at = crash_at
    for act in (
        lambda: [house.cluster.put(model("one")), house.cluster.put(model("two"))],
        lambda: house.cluster.put(model("one", path="other.gguf")),
        lambda: house.cluster.remove((AXMODEL, "team-a", "two")),
    ):
        act()
        for _ in range(12):
            try:
                house.run_jobs()
                house.run_deployments()
                await house.later(2)
            except Crash:
                await house.restart()
    await house.proceed()
    await house.operator.stop()


async def undisturbed() -> tuple[object, int]:
    house = House()
    await story(house)
    return house.state(), house.cluster.writes


async def test_a_kill_at_any_write_leads_to_the_same_world():
    want, writes = await undisturbed()
    assert writes > 20
    for crash_at in range(1, writes + 1, 3):
        house = House()
        await story(house, crash_at)
        assert house.state() == want, f"killed at write {crash_at} of {writes}"


async def test_a_thousand_models_start_with_calls_in_proportion():
    """Each model costs what it costs alone; nothing is asked again for each of the others."""
    alone, many = House(), House()
    for house, count in ((alone, 1), (many, 1000)):
        for n in range(count):
            house.cluster.put(model(f"m{n}", routing={"servedNames": [f"name-{n}"]}))
        await house.start()
        await house.operator.stop()
    lists = sum(n for call, n in alone.cluster.calls.items() if call.startswith("list"))
    assert sum(n for call, n in many.cluster.calls.items() if call.startswith("list")) == lists
    one = alone.cluster.calls.total() - lists
    assert many.cluster.calls.total() - lists <= 1000 * one
    assert all(m.get("status") for m in many.cluster.all(AXMODEL))


async def test_many_models_at_rest_start_without_a_write():
    house = House()
    for n in range(60):
        house.cluster.put(model(f"m{n}"))
    await house.start()
    await house.proceed()
    assert house.condition("m59", "Ready") == ("True", "Serving")
    before, gets = house.cluster.writes, house.cluster.calls["get Service"]
    await house.restart()
    assert (house.cluster.writes, house.cluster.calls["get Service"]) == (before, gets)
    await house.operator.stop()


async def test_a_stop_finishes_the_reconcile_that_runs():
    house = House()
    await house.start()
    inside, go_on = asyncio.Event(), asyncio.Event()
    apply = house.cluster.apply

    async def slow(manifest, *, status=False):
        inside.set()
        await go_on.wait()
        return await apply(manifest, status=status)

    house.cluster.apply = slow
    house.cluster.put(model())
    kind, type_, manifest = house.cluster.news.popleft()
    house.operator.heard(kind, type_, manifest)
    await inside.wait()
    stopping = asyncio.create_task(house.operator.stop())
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    assert house.condition("smol", "EngineReady") == ("False", "ResolvingSource")


async def test_nothing_is_done_before_everything_is_known():
    """A Deployment that is not listed yet must not look as if it were gone."""
    house = House()
    house.cluster.put(model())
    answer = house.cluster.list
    may_list = asyncio.Event()

    async def slow(kind, namespace=None, labels=None):
        if kind == SERVICE:
            await may_list.wait()
        return await answer(kind, namespace, labels)

    house.cluster.list = slow
    starting = asyncio.create_task(house.operator.start())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not house.operator.ready
    assert house.cluster.writes == 0
    may_list.set()
    await starting
    await house.settle()
    assert house.operator.ready
    assert house.cluster.writes > 0
    await house.operator.stop()


async def test_what_a_watch_has_missed_is_repaired_and_the_watch_counts_as_dead():
    house = House()
    await house.start()
    house.cluster.put(model())
    await house.proceed()
    deployment = house.cluster.one(DEPLOYMENT)
    house.cluster.remove((DEPLOYMENT, "team-a", deployment["metadata"]["name"]))
    house.cluster.news.clear()  # the watch says nothing
    assert house.operator.ailments() == []
    await house.operator.resync(DEPLOYMENT)
    assert house.operator.ailments() == ["the watch of deployments is dead"]
    await house.proceed()
    assert house.cluster.one(DEPLOYMENT)["metadata"]["name"] == deployment["metadata"]["name"]
    assert house.operator.ailments() == []  # it was heard again
    await house.operator.stop()


async def test_a_watch_that_is_only_late_is_alive():
    house = House()
    await house.start()
    house.cluster.put(model())
    late = house.cluster.news.popleft()
    resync = asyncio.create_task(house.operator.resync(AXMODEL))
    await asyncio.sleep(0)
    house.operator.heard(*late)
    await resync
    assert house.operator.ailments() == []
    await house.operator.stop()


async def test_a_list_that_finds_nothing_new_costs_no_reconcile():
    house = House()
    await house.start()
    house.cluster.put(model())
    await house.proceed()
    for kind in (AXMODEL, AXENGINE, DEPLOYMENT):
        await house.operator.resync(kind)
    assert house.operator.queue.backlog.next_in(house.now) != 0
    assert house.operator.ailments() == []
    await house.operator.stop()


async def test_a_queue_that_died_is_an_ailment():
    house = House()
    await house.start()
    house.operator.queue._dispatcher.cancel()
    await asyncio.gather(house.operator.queue._dispatcher, return_exceptions=True)
    assert house.operator.ailments() == ["the queue is dead"]
    await house.operator.stop()


async def test_what_went_without_an_event_is_forgotten_when_it_is_deleted_again():
    """A deletion between our own list and the start of the watches is told by nobody."""
    house = House()
    house.cluster.put(model("one"))
    await house.start()
    await house.proceed()
    old = house.cluster.one(DEPLOYMENT)
    house.cluster.put(model("one", engine={"limits": {"maxTotalTokens": 1024}}))
    for _ in range(3):
        await house.later(2)
    new = next(d for d in house.cluster.all(DEPLOYMENT) if d["metadata"]["name"] != old["metadata"]["name"])
    house.cluster.objects.pop((DEPLOYMENT, "team-a", old["metadata"]["name"]))
    await house.proceed()
    assert house.operator.cache.count(DEPLOYMENT) == 1
    assert house.cluster.all(DEPLOYMENT)[0]["metadata"]["name"] == new["metadata"]["name"]
    assert house.condition("one", "Ready") == ("True", "Serving")
    assert house.condition("one", "Reconciling") in {("-", "-"), None}
