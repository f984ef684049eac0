"""The simulated service: replicas with slots, one queue, a hosted API, and a meter for every GPU-second.

Event-driven: arrivals, completions, replicas that become ready, waits that end at the hosted API, and the
autoscaler's ticks. Requests take the least busy ready replica; a removed replica is the emptiest one, takes
nothing more and is paid for until its last request ends; a starting replica is paid for from the first second.
"""

import heapq
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from ax_operator.simulate.setting import Outcome, Scaler, Setting, View
from ax_operator.simulate.trace import Trace

SAMPLE_SECONDS = 10.0


class _Replica:
    __slots__ = ("began", "busy", "state")

    def __init__(self, began: float, state: str) -> None:
        self.began = began
        self.busy = 0
        self.state = state


def simulate(
    trace: Trace,
    setting: Setting,
    scaler: Scaler,
    *,
    series: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Replays the trace under a policy until the last request would have ended if served at once.

    progress is told the share that is done, about a hundred times.
    """
    world = _World(trace, setting, scaler, series)
    world.progress = progress
    return world.run()


_DONE, _READY, _GIVE_UP, _BACK, _TICK, _SAMPLE = range(6)


class _World:
    def __init__(self, trace: Trace, setting: Setting, scaler: Scaler, series: bool) -> None:
        self.arrivals = trace.arrivals
        self.setting, self.scaler = setting, scaler
        self.outcome = Outcome(requests=len(trace.arrivals), series=[] if series else None)
        self.events: list[tuple[float, int, int, Any]] = []
        self.order = 0
        self.now = 0.0
        self.ready = [_Replica(0.0, "ready") for _ in range(setting.first_replicas)]
        self.starting: list[_Replica] = []
        self.draining = 0
        self.queue: deque[int] = deque()
        self.queued: set[int] = set()
        self.running = 0
        self.hosted = 0
        self.target = setting.first_replicas
        self.ended = 0
        self.means = (0.0, 0.0, 0.0)
        self.metered = 0.0
        self.progress: Callable[[float], None] | None = None
        self.told = 0.0
        self.seconds = [setting.seconds(each.prompt, each.output) for each in trace.arrivals]
        self.end = max(each.at + length for each, length in zip(self.arrivals, self.seconds, strict=True))

    def run(self) -> Outcome:
        self._at(0.0, _TICK)
        if self.outcome.series is not None:
            self._at(0.0, _SAMPLE)
        handlers = (self._done, self._made_ready, self._give_up, self._back, self._tick, self._sample)
        events, arrivals, count = self.events, self.arrivals, len(self.arrivals)
        index = 0
        arrival = arrivals[0].at
        while True:
            if arrival <= events[0][0]:
                self.now = arrival
                self._arrive(index)
                index += 1
                arrival = arrivals[index].at if index < count else inf
                continue
            self.now, _, kind, subject = heapq.heappop(events)
            if self.now > self.end:
                break
            handlers[kind](subject)
        self.now = self.end
        self._meter()
        self.outcome.in_time += sum(self.end - arrivals[each].at <= self.setting.patience for each in self.queued)
        return self.outcome

    def _at(self, when: float, kind: int, subject: Any = None) -> None:
        self.order += 1
        heapq.heappush(self.events, (when, self.order, kind, subject))

    def _meter(self) -> None:
        alive = len(self.ready) + len(self.starting) + self.draining
        self.outcome.gpu_seconds += alive * (self.now - self.metered)
        self.metered = self.now

    def _arrive(self, index: int) -> None:
        if not self.queue and self._place(index):
            return
        if self.setting.hosted and (not self.ready or self.setting.overflow_wait <= 0):
            self._host(index)
            return
        self.queue.append(index)
        self.queued.add(index)
        if self.setting.hosted:
            self._at(self.now + self.setting.overflow_wait, _GIVE_UP, index)

    def _place(self, index: int) -> bool:
        best, least = None, self.setting.slots
        for replica in self.ready:
            if replica.busy < least:
                best, least = replica, replica.busy
        if best is None:
            return False
        best.busy += 1
        self.running += 1
        if self.now - self.arrivals[index].at <= self.setting.patience:
            self.outcome.in_time += 1
        self._at(self.now + self.seconds[index], _DONE, (best, index))
        return True

    def _host(self, index: int) -> None:
        self.hosted += 1
        arrival, setting = self.arrivals[index], self.setting
        self.outcome.hosted += 1
        self.outcome.hosted_cost += (
            arrival.prompt * setting.hosted_input + arrival.output * setting.hosted_output
        ) / 1e6
        if self.now - arrival.at <= setting.patience:
            self.outcome.in_time += 1
        self._at(self.now + self.seconds[index], _BACK, index)

    def _learn(self, index: int) -> None:
        self.ended += 1
        weight = 1 / min(self.ended, 500)
        arrival = self.arrivals[index]
        prompt, output, seconds = self.means
        self.means = (
            prompt + weight * (arrival.prompt - prompt),
            output + weight * (arrival.output - output),
            seconds + weight * (self.seconds[index] - seconds),
        )

    def _done(self, subject: tuple[_Replica, int]) -> None:
        replica, index = subject
        replica.busy -= 1
        self.running -= 1
        self._learn(index)
        if replica.state == "draining":
            if replica.busy == 0:
                self._meter()
                self.draining -= 1
        else:
            self._serve_queue()

    def _serve_queue(self) -> None:
        while self.queue:
            if self.queue[0] in self.queued:
                if not self._place(self.queue[0]):
                    return
                self.queued.remove(self.queue[0])
            self.queue.popleft()

    def _give_up(self, index: int) -> None:
        if index in self.queued:
            self.queued.remove(index)
            self._host(index)

    def _back(self, index: int) -> None:
        self.hosted -= 1
        self._learn(index)

    def _made_ready(self, replica: _Replica) -> None:
        if replica.state == "starting":
            replica.state = "ready"
            self.starting.remove(replica)
            self.ready.append(replica)
            self._serve_queue()

    def _view(self) -> View:
        age = next((self.now - begin for begin, end in self.setting.blackouts if begin < self.now < end), 0.0)
        queued = 0 if age else len(self.queued)
        return View(
            now=self.now,
            running=0 if age else self.running,
            waiting=queued if self.ready else 0,
            held=0 if self.ready else queued,
            overflowed=0 if age else self.hosted,
            ready=len(self.ready),
            starting=len(self.starting),
            age=age,
            mean_prompt=self.means[0],
            mean_output=self.means[1],
            mean_seconds=self.means[2] * self.setting.seconds_error,
        )

    def _tick(self, _: Any) -> None:
        target = self.scaler.replicas(self._view())
        if target != self.target:
            self.outcome.changes += 1
            self.target = target
            if target == 0 and self.running + len(self.queued) > 0:
                self.outcome.zero_with_requests += 1
        self._follow(target)
        self.outcome.peak = max(self.outcome.peak, target)
        self._at(self.now + self.scaler.period, _TICK)
        if self.progress is not None and self.now >= self.told:
            self.progress(self.now / self.end)
            self.told += self.end / 100

    def _follow(self, target: int) -> None:
        more = target - len(self.ready) - len(self.starting)
        if more == 0:
            return
        self._meter()
        for _ in range(more):
            replica = _Replica(self.now, "starting")
            self.starting.append(replica)
            self._at(self.now + self.setting.cold_start, _READY, replica)
        for _ in range(-more):
            if self.starting:
                self.starting.pop().state = "gone"
                continue
            replica = min(self.ready, key=lambda each: each.busy)
            self.ready.remove(replica)
            replica.state = "draining"
            self.draining += replica.busy > 0
        if self.setting.hosted and not self.ready:
            while self.queue:
                self._give_up(self.queue.popleft())

    def _sample(self, _: Any) -> None:
        alive = len(self.ready) + len(self.starting) + self.draining
        queued = len(self.queued)
        demand = self.running + queued + self.hosted
        if self.outcome.series is not None:
            self.outcome.series.append((self.now, demand, alive, queued, self.hosted))
        self._at(self.now + SAMPLE_SECONDS, _SAMPLE)
