"""What pods answer is read strictly: nonsense is no answer, and families of metrics are told apart."""

import json

import pytest

from ax_engines import wire
from ax_operator.control.questions import LIMIT_BYTES, NoAnswer, Ports, Questions, sums
from tests.control.pods import loopback


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("not json", id="no JSON"),
        pytest.param(json.dumps({"phase": "fetch", "percent": 900}), id="out of bounds"),
        pytest.param("x" * (LIMIT_BYTES + 1), id="too much"),
    ],
)
async def test_nonsense_is_no_answer(pods, answer):
    async with loopback(pods, "127.0.0.1"), Questions(Ports(progress=pods.port)) as questions:
        pods.progress["127.0.0.1"] = answer
        with pytest.raises(NoAnswer):
            await questions.progress("127.0.0.1")


@pytest.mark.parametrize("text", ["ax_requests_running twelve", 'ax_requests_running{a="b"} '])
def test_a_gauge_without_a_number_is_no_answer(text):
    with pytest.raises(NoAnswer, match="ax_requests_running has no number"):
        sums(text.encode(), (wire.METRIC_RUNNING,))


def test_families_are_told_apart_by_their_whole_name():
    text = (
        b'# TYPE x gauge\nax_requests_running{m="a{b} c"} 2\nax_requests_running 1 1700000\nax_requests_running_x 9\n'
    )
    assert sums(text, (wire.METRIC_RUNNING,)) == {wire.METRIC_RUNNING: 3}
