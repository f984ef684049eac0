"""The policies: the production rule, and its rivals from their published formulae.

Rivals see what their own systems would: requests running and queued here, never those at the hosted API.
Sources: Kubernetes "Horizontal Pod Autoscaling" (algorithm details, default behaviour); KEDA "ScaledObject
specification" and "Scaling deployments"; Knative Serving "Additional autoscaling configuration for KPA" and
the defaults of its config-autoscaler.
"""

from collections import deque
from math import ceil

from ax_operator.plan.autoscale import decide
from ax_operator.plan.scaling import Load, Memory, Policy, Prices, Requests
from ax_operator.simulate.setting import Setting, View

TARGET_FILL = 0.8
"""Share of a replica's slots that HPA and KEDA aim for; a common choice, in favour of few GPUs."""


class Ours:
    """The production rule, told what production tells it."""

    period = 2.0

    def __init__(self, setting: Setting, min_replicas: int = 0) -> None:
        self.memory = Memory()
        self.why = ""
        self.policy = Policy(
            min_replicas=min_replicas,
            max_replicas=setting.max_replicas,
            slots=setting.slots,
            cold_start=setting.cold_start,
            patience=setting.patience,
            hosted=setting.hosted,
            prices=Prices(setting.gpu_hour, setting.hosted_input, setting.hosted_output),
        )

    def replicas(self, view: View) -> int:
        """See Scaler."""
        load = Load(
            running=view.running,
            waiting=view.waiting,
            held=view.held,
            in_flight=view.running + view.waiting,
            overflowed=view.overflowed,
            ready=view.ready,
            starting=view.starting,
            pods_known=view.ready,
            pods_answered=0 if view.age else view.ready,
            metrics_age=view.age,
            requests=Requests(view.mean_prompt, view.mean_output, view.mean_seconds),
        )
        decision = decide(load, self.policy, self.memory, view.now)
        self.memory, self.why = decision.memory, decision.why
        return decision.replicas


class Planned:
    """A schedule made beforehand, each replica asked for one cold start before it is needed."""

    def __init__(self, schedule: tuple[int, ...], cell: float, setting: Setting) -> None:
        self.period = cell
        self.schedule = schedule
        self.ahead = ceil(setting.cold_start / cell)

    def replicas(self, view: View) -> int:
        """See Scaler."""
        cell = int(view.now / self.period)
        return max(self.schedule[cell : cell + self.ahead + 1], default=0)


def hpa_desired(current: int, metric: float, target: float, tolerance: float = 0.1) -> int:
    """ceil(current * metric / target), or current when the ratio is within the tolerance of one."""
    ratio = metric / target
    return current if abs(ratio - 1) <= tolerance else ceil(current * ratio - 1e-9)


def hpa_rate_limit(current: int) -> int:
    """The most replicas after one period of 15 s: double, or four more, whichever is more."""
    return max(2 * current, current + 4)


class Hpa:
    """HorizontalPodAutoscaler on the requests per pod: sync 15 s, tolerance 10 %, 300 s before less."""

    period = 15.0
    window = 300.0

    def __init__(self, setting: Setting) -> None:
        self.target = TARGET_FILL * setting.slots
        self.most = setting.max_replicas
        self.advice: deque[tuple[float, int]] = deque()

    def replicas(self, view: View) -> int:
        """See Scaler. Without metrics HPA leaves the scale alone."""
        current = max(1, view.ready + view.starting)
        if view.age:
            return current
        if not self.advice:
            # The controller counts the replicas it finds as its first advice.
            self.advice.append((view.now, current))
        desired = hpa_desired(current, (view.running + view.waiting + view.held) / current, self.target)
        self.advice.append((view.now, desired))
        while self.advice[0][0] < view.now - self.window:
            self.advice.popleft()
        if desired < current:
            desired = min(current, max(advice for _, advice in self.advice))
        return max(1, min(self.most, desired, hpa_rate_limit(current)))


class Keda:
    """A ScaledObject over the same signal: wakes from zero by polling, HPA above one, zero after cooldown."""

    period = 15.0
    polling = 30.0
    cooldown = 300.0

    def __init__(self, setting: Setting) -> None:
        self.hpa = Hpa(setting)
        self.active = 0.0
        self.polled = -self.polling

    def replicas(self, view: View) -> int:
        """See Scaler."""
        current = view.ready + view.starting
        if view.age:
            return current
        woken = False
        if view.now - self.polled >= self.polling:
            self.polled = view.now
            woken = view.running + view.waiting + view.held > 0
            self.active = view.now if woken else self.active
        if current == 0:
            return int(woken)
        if view.now - self.active >= self.cooldown:
            return 0
        return self.hpa.replicas(view)


def kpa_desired(concurrency: float, target: float) -> int:
    """ceil(concurrency / target per pod)."""
    return ceil(concurrency / target - 1e-9)


class Kpa:
    """Knative's autoscaler: 60 s window, 6 s panic window, panic at twice the capacity, 70 % utilisation."""

    period = 2.0
    stable, panic, threshold, utilisation, grace, max_down = 60.0, 6.0, 2.0, 0.7, 30.0, 2.0

    def __init__(self, setting: Setting) -> None:
        self.target = self.utilisation * setting.slots
        self.most = setting.max_replicas
        self.seen: deque[tuple[float, int]] = deque()
        self.panicking: float | None = None
        self.panic_replicas = 0
        self.zero_since: float | None = None

    def replicas(self, view: View) -> int:
        """See Scaler."""
        current = view.ready + view.starting
        if view.age:
            return current
        if not self.seen and current > 1:
            # It begins in panic mode where it finds more than one pod.
            self.panicking, self.panic_replicas = view.now, current
        self.seen.append((view.now, view.running + view.waiting + view.held))
        while self.seen[0][0] <= view.now - self.stable:
            self.seen.popleft()
        stable = kpa_desired(sum(count for _, count in self.seen) / len(self.seen), self.target)
        latest = [count for at, count in self.seen if at > view.now - self.panic]
        panic = kpa_desired(sum(latest) / len(latest), self.target)
        ready = max(1, view.ready)
        stable = max(stable, int(ready / self.max_down))
        if panic / ready >= self.threshold:
            self.panicking = view.now
        elif self.panicking is not None and view.now - self.panicking > self.stable:
            self.panicking, self.panic_replicas = None, 0
        desired = stable
        if self.panicking is not None:
            self.panic_replicas = max(self.panic_replicas, panic, stable)
            desired = self.panic_replicas
        return self._with_grace(min(self.most, desired), current, view)

    def _with_grace(self, desired: int, current: int, view: View) -> int:
        busy = any(count for _, count in self.seen)
        if busy or current == 0:
            self.zero_since = None
            return max(desired, 1) if busy else desired
        self.zero_since = view.now if self.zero_since is None else self.zero_since
        return 0 if view.now - self.zero_since >= self.grace else max(1, desired)
