"""How long a step takes: on the CPU by its clock, on a GPU also by the GPU's own.

A GPU runs behind Python: what a step does there is queued. So there are three figures. The device's
time is that of what was queued, taken by events while the device is kept busy with other work until
the whole step is in the queue. The host's is how long Python takes to queue it. And a step alone,
from an idle device to an idle device, is whatever of the two takes longer, and some more.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

Step = Callable[[], Any]

SLOW = 2.0
"""seconds above which one step is enough to warm up"""
SIDE = 6144
"""of the matrices that keep a device busy: 0.7 ms for a product on an H100, 216 MiB for three.

Few large products, since a device's queue holds about a thousand launches, the step's among them.
"""
AHEAD, MARGIN = 1.5, 5e-4
"""how much longer than the host's time a device is kept busy: a factor, and seconds"""
LONGEST = 0.25
"""seconds that a device is kept busy at most"""
WAITS = (
    "waits for the device, or queues more than its queue holds, so that its device time has time "
    "of Python's in it"
)


class Turn(NamedTuple):
    """The seconds of a step."""

    seconds: float
    """on a GPU, the device's"""
    host: float | None = None
    alone: float | None = None
    late: bool = False
    """whether the device began with the step before all of it was queued"""


class Clock(Protocol):
    """Measures the steps of one contestant."""

    waits: bool
    """whether the contestant's step waits for the device"""

    def warm_up(self, step: Step, compiled: bool) -> tuple[float, float]:
        """Step a few times; return the seconds of the first step, and what a turn takes."""
        ...

    def turn(self, step: Step) -> Turn:
        """Return the seconds of a step."""
        ...


class Plain:
    """Measures on the CPU, where a step is done when it returns."""

    waits = False

    def warm_up(self, step: Step, compiled: bool) -> tuple[float, float]:
        """Step once, and again unless that is slow; `Clock.warm_up`."""
        first = estimate = self.turn(step).seconds  # makes state, compiles
        if compiled or estimate < SLOW:
            estimate = self.turn(step).seconds
        return first, estimate

    def turn(self, step: Step) -> Turn:
        """Return the seconds of a step."""
        start = time.perf_counter()
        step()
        return Turn(time.perf_counter() - start)


class Gpu:
    """What measuring on a GPU needs of it; tests have one without a GPU."""

    def __init__(self) -> None:
        self._factors = [
            torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2)
        ]
        self._product = torch.empty_like(self._factors[0])
        self.work(20)
        start, end = self.event(), self.event()
        start.record()
        self.work(20)
        end.record()
        self.synchronize()
        self.unit: float = start.elapsed_time(end) / 1e3 / 20
        """seconds that a job takes"""

    def now(self) -> float:
        """Return the host's time in seconds."""
        return time.perf_counter()

    def event(self) -> Any:
        """Return an event that records the device's time."""
        return torch.cuda.Event(enable_timing=True)

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        torch.cuda.synchronize()

    def work(self, jobs: int) -> None:
        """Queue so many jobs that have nothing to do with a step."""
        for _ in range(jobs):
            torch.mm(*self._factors, out=self._product)


class Queued:
    """Measures on a GPU; of a turn's two steps one is for the device's time, one for the others."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._jobs = 0
        self.waits = False

    def warm_up(self, step: Step, compiled: bool) -> tuple[float, float]:
        """Step, and find how long the device has to be kept busy; `Clock.warm_up`."""
        del compiled
        _, first = self._alone(step)  # makes state, compiles
        host, _ = self._alone(step)
        self._calibrate(step, host)
        start = self._gpu.now()
        self.turn(step)
        return first, self._gpu.now() - start

    def turn(self, step: Step) -> Turn:
        """Return the seconds of a step: of the device, of the host, and alone."""
        seconds, late = self._behind_other_work(step)
        host, alone = self._alone(step)
        return Turn(seconds, host, alone, late)

    def _calibrate(self, step: Step, host: float) -> None:
        least = self._jobs = self._jobs_for(AHEAD * host + MARGIN)
        for factor in (1, 2, 4):
            self._jobs = min(factor * least, self._jobs_for(LONGEST))
            if not self._behind_other_work(step)[1]:
                return
        # However long the device is busy, the step outlasts it: it waits until that has ended.
        self.waits, self._jobs = True, min(least, self._jobs_for(LONGEST))

    def _jobs_for(self, seconds: float) -> int:
        return max(1, math.ceil(seconds / self._gpu.unit))

    def _behind_other_work(self, step: Step) -> tuple[float, bool]:
        """Return the device's seconds, and whether it began before all was queued."""
        gpu = self._gpu
        gpu.synchronize()
        start, end = gpu.event(), gpu.event()
        gpu.work(self._jobs)
        start.record()
        step()
        late = start.query()
        end.record()
        gpu.synchronize()
        return start.elapsed_time(end) / 1e3, late

    def _alone(self, step: Step) -> tuple[float, float]:
        """Return the seconds until a step returns, and until the device has done it."""
        gpu = self._gpu
        gpu.synchronize()
        start = gpu.now()
        step()
        host = gpu.now() - start
        gpu.synchronize()
        return host, gpu.now() - start
