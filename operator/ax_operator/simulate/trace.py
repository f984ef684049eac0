"""Request traces: multiplied, or made from a formula and a seed; `trace_file` reads them."""

import random
from dataclasses import dataclass
from math import cos, exp, log, pi
from typing import NamedTuple


class TraceError(ValueError):
    """A trace cannot be read; the message names the file, the line and what to change."""


class Arrival(NamedTuple):
    """One request of a trace."""

    at: float
    """Seconds since the first request."""
    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals in order of time."""

    name: str
    arrivals: tuple[Arrival, ...]

    def scaled(self, copies: int, seed: int = 1) -> "Trace":
        """The trace with every request repeated `copies` times, the copies up to 30 s later: more of the same."""
        if copies <= 1:
            return self
        draw = random.Random(seed)  # noqa: S311
        arrivals = list(self.arrivals)
        for _ in range(copies - 1):
            arrivals += [Arrival(each.at + draw.uniform(0, 30), each.prompt, each.output) for each in self.arrivals]
        return Trace(f"{self.name} x{copies}", tuple(sorted(arrivals)))


@dataclass(frozen=True, slots=True)
class Shape:
    """A synthetic load: rate(t) = mean * (1 + swing * cos(2 pi (t - peak) / day)) * weekend(t) * step(t) * G(t).

    G is a Gamma variable of mean one, drawn anew every `burst_seconds`, with shape `burst_shape` (variance
    1 / burst_shape). Arrivals are Poisson at that rate. Tokens are log-normal with the means of the Azure
    2023 conversation trace (1,155 in, 211 out).
    """

    seconds: float
    mean: float
    """Requests per second."""
    swing: float
    burst_seconds: float
    burst_shape: float
    weekend: float = 1.0
    """Factor of days six and seven."""
    step: float = 1.0
    """Factor of every second forty minutes."""


_DAY = 86_400.0
SHAPES = {
    "hour": Shape(3600, 5.5, 0.0, 3600, 1e9),
    "day": Shape(_DAY, 4.0, 0.7, 300, 10),
    "week": Shape(7 * _DAY, 2.0, 0.7, 900, 20, 0.6),
    "bursts": Shape(2 * 3600, 2.0, 0.0, 40, 0.35),
    "steps": Shape(4 * 3600, 5.0, 0.0, 60, 1e9, step=3.0),
    "sparse": Shape(_DAY, 0.002, 0.9, 600, 0.5),
}
_PEAK = 14 * 3600.0
_STEP = 2400.0


def synthetic_trace(name: str, seed: int = 1) -> Trace:
    """The trace of a named shape; the same seed gives the same trace. Raises TraceError."""
    shape = SHAPES.get(name)
    if shape is None:
        raise TraceError(f"synthetic:{name}: choose one of {', '.join(SHAPES)}")
    draw = random.Random(seed)  # noqa: S311
    arrivals = []
    begin = 0.0
    while begin < shape.seconds:
        end = min(begin + shape.burst_seconds, shape.seconds)
        burst = draw.gammavariate(shape.burst_shape, 1 / shape.burst_shape)
        ceiling = shape.mean * (1 + shape.swing) * shape.step * burst
        at = begin
        while ceiling > 0:
            at += draw.expovariate(ceiling)
            if at >= end:
                break
            day = 1 + shape.swing * cos(2 * pi * (at - _PEAK) / _DAY)
            rate = shape.mean * day * burst * (shape.weekend if at // _DAY % 7 >= 5 else 1.0)
            rate *= shape.step if at // _STEP % 2 else 1.0
            if draw.random() * ceiling < rate:
                arrivals.append(Arrival(at, _tokens(draw, 1155, 1.0), _tokens(draw, 211, 0.8)))
        begin = end
    return Trace(f"synthetic {name}, seed {seed}", tuple(arrivals))


def _tokens(draw: random.Random, mean: float, sigma: float) -> int:
    return max(1, round(exp(draw.gauss(log(mean) - sigma * sigma / 2, sigma))))


def busy_cells(trace: Trace, seconds: list[float], cell: float) -> list[float]:
    """Mean busy slots per cell of `cell` seconds if every request were served at once."""
    end = max(arrival.at + length for arrival, length in zip(trace.arrivals, seconds, strict=True))
    cells = [0.0] * (int(end // cell) + 1)
    for arrival, length in zip(trace.arrivals, seconds, strict=True):
        at, until = arrival.at, arrival.at + length
        index = int(at // cell)
        while at < until:
            edge = min(until, (index + 1) * cell)
            cells[index] += (edge - at) / cell
            at, index = edge, index + 1
    return cells
