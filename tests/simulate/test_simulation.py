"""The simulated service and the optima, on cases that can be worked out by hand; the command line's answers."""

import argparse
import json
from itertools import product
from math import inf
from pathlib import Path

import pytest

from ax_operator.simulate import add_arguments, run
from ax_operator.simulate.optimum import CELL, optimum
from ax_operator.simulate.setting import Setting, View
from ax_operator.simulate.trace import Arrival, Trace, TraceError, busy_cells, synthetic_trace
from ax_operator.simulate.trace_file import read_trace
from ax_operator.simulate.world import simulate

DATA = Path(__file__).parents[1] / "data"
ONE_SECOND = Setting(slots=1, prefill=1e9, token_ms=1000, cold_start=10, hosted_input=0, hosted_output=1e6)


class Fixed:
    """The same number of replicas always."""

    period = 1.0

    def __init__(self, count: int) -> None:
        self.count = count

    def replicas(self, view: View) -> int:
        return self.count


def trace(*arrivals: tuple[float, int]) -> Trace:
    return Trace("by hand", tuple(Arrival(at, 0, seconds) for at, seconds in arrivals))


def test_requests_queue_for_the_one_slot_and_every_second_of_the_replica_is_paid() -> None:
    work = trace((0, 4), (0, 4), (20, 4), (21, 1))
    outcome = simulate(work, Setting(**settings(ONE_SECOND) | {"first_replicas": 1}), Fixed(1))
    assert (outcome.requests, outcome.in_time) == (4, 2)
    assert outcome.gpu_seconds == pytest.approx(24)


def test_a_started_replica_is_paid_for_before_it_serves() -> None:
    outcome = simulate(trace((0, 1), (11, 5)), ONE_SECOND, Fixed(1))
    assert outcome.in_time == 1
    assert outcome.gpu_seconds == pytest.approx(16)


def test_a_removed_replica_drains_and_is_paid_until_its_last_request_ends() -> None:
    class Stops:
        period = 1.0

        def replicas(self, view: View) -> int:
            return 1 if view.now < 2 else 0

    setting = Setting(**settings(ONE_SECOND) | {"first_replicas": 1, "hosted": True})
    outcome = simulate(trace((0, 6), (3, 20)), setting, Stops())
    assert outcome.gpu_seconds == pytest.approx(6)
    assert (outcome.hosted, outcome.in_time, outcome.zero_with_requests) == (1, 2, 1)


def test_what_has_no_room_is_hosted_after_the_overflow_wait_and_paid_by_the_token() -> None:
    setting = Setting(**settings(ONE_SECOND) | {"first_replicas": 1, "hosted": True, "overflow_wait": 1.0})
    outcome = simulate(trace((0, 10), (1, 3), (9.5, 1)), setting, Fixed(1))
    assert (outcome.hosted, outcome.hosted_cost, outcome.in_time) == (1, 3.0, 3)


def settings(setting: Setting) -> dict[str, object]:
    return {name: getattr(setting, name) for name in setting.__slots__}


def test_busy_cells_keep_all_the_work() -> None:
    work = trace((0, 25), (5, 10), (19, 2))
    assert busy_cells(work, [25.0, 10.0, 2.0], 10.0) == pytest.approx([1.5, 1.6, 0.6])


def brute_force(cells: list[float], slots: int, cold: float, worth: float, first: int) -> float:
    """The cheapest of all schedules, in replica-seconds, hosted work weighed in."""
    best = inf
    for plan in product(range(4), repeat=len(cells)):
        cost, before = 0.0, first
        for cell, replicas in zip(cells, plan, strict=True):
            missing = max(0.0, cell - replicas * slots)
            cost += replicas * CELL + max(0, replicas - before) * cold
            cost += worth * missing / slots * CELL if missing > 1e-9 else 0.0
            before = replicas
        best = min(best, cost)
    return best


@pytest.mark.parametrize("worth", [inf, 2.75, 1.2, 0.4])
@pytest.mark.parametrize("cold", [5.0, 15.0, 60.0])
@pytest.mark.parametrize("first", [0, 2])
def test_the_optimum_is_the_cheapest_of_all_schedules(worth: float, cold: float, first: int) -> None:
    for cells in ([3.0, 9, 0, 4, 17, 2, 0], [0.0, 0, 8, 8, 16.5, 0, 9], [2.0, 2, 2, 2, 2, 2, 2]):
        found = optimum(cells, 8, cold, worth, first)
        total = found.replica_seconds + (0 if worth == inf else worth * found.hosted_seconds / 8)
        assert total == pytest.approx(brute_force(cells, 8, cold, worth, first))


def test_a_seed_makes_the_same_trace_again() -> None:
    assert synthetic_trace("bursts", 7) == synthetic_trace("bursts", 7)
    assert synthetic_trace("bursts", 7) != synthetic_trace("bursts", 8)


@pytest.mark.parametrize(
    "text",
    ["", "time,in,out\n", "time,in,out\nnoon,1,1\n", "time,in,out\n1,2\n", "time,in,out\n1,-2,3\n", "t\nnan,1,1\n"],
)
def test_a_trace_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=r"bad\.csv"):
        read_trace(path)


@pytest.mark.parametrize(
    "text",
    [
        "when,in,out\n7,10,2\n5,30,4\n",
        "5,30,4\n7,10,2\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:05.0000000,30,4\n2023-11-16 18:15:07.0000000,10,2\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 09:00:05.5+09:00,30,4\n2024-05-10T00:00:07.5Z,10,2\n\n",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,M,30,4,34,API\n7,M,10,2,12,API\n",
        "output_tokens,prompt_tokens,time\n4,30,1.5\n2,10,3.5\n",
    ],
)
def test_the_formats_of_published_traces_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    assert read_trace(path).arrivals == (Arrival(0, 30, 4), Arrival(2, 10, 2))


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(words))


def test_the_reference_price_makes_hosting_all_cost_twice_the_optimum(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(DATA / "azure-llm-2023-conv.csv.gz")
    assert command("--trace", path, "--policy", "optimum", "--format", "json") == 0
    best = json.loads(capsys.readouterr().out)["policies"]["optimum"]["costKRW"]
    arrivals = read_trace(Path(path)).arrivals
    assert len(arrivals) == 19_366
    hosted = sum(each.prompt * 1036 + each.output * 4144 for each in arrivals) / 1e6
    assert hosted / best == pytest.approx(2.0, rel=0.01)


def test_json_has_the_published_shape(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    words = ["--trace", "synthetic:bursts", "--hosted", "--format", "json", "--plot", str(picture)]
    assert command(*words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["policies"]) == ["ours", "hpa", "keda", "kpa", "optimum"]
    fields = {"gpuHours", "oracleRatio", "slo", "hostedShare", "costKRW", "costRatio", "scaleChanges"}
    for result in answer["policies"].values():
        assert set(result) == fields
        assert 0 <= result["slo"] <= 1
        assert 0 <= result["hostedShare"] <= 1
    assert answer["policies"]["optimum"]["costRatio"] == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_missing_trace_is_said_and_not_raised(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--trace", "/nowhere.csv") == 2
    assert "/nowhere.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--slots", "0"], ["--cold-start", "nan"], ["--hosted-price", "1"], ["--policy", "x"]]
)
def test_impossible_flags_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        command("--trace", "synthetic:hour", *words)
