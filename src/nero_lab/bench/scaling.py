"""How the cost of a step grows with the number of parameters and of threads."""

import psutil
import torch
from torch.nn import Parameter

from nero_lab.bench.contestants import ADAMW, CONTESTANTS, FLOOR, NERO
from nero_lab.bench.measure import Runner, Settings, Tick, interleave, medians
from nero_lab.bench.results import ScalingPoint
from nero_lab.bench.workloads import Workload

SIDE = 1024
COMPARED = (FLOOR, NERO, ADAMW)
FULL_SIZES = (10**6, 10**7, 10**8, 10**9)
QUICK_SIZES = (10**5, 10**6)
BYTES_PER_ENTRY = 16
"""weight, gradient and AdamW's two averages, in float32"""


def measure_scaling(threads: int, settings: Settings, tick: Tick) -> tuple[ScalingPoint, ...]:
    """Return the time of a step by size and threads; leaves the number of threads as it was."""
    before = torch.get_num_threads()
    points = []
    try:
        for entries in sizes(settings.quick):
            for count in sorted({1, threads}):
                torch.set_num_threads(count)
                tick(
                    f"scaling: {entries / 1e6:,.1f} M parameters, {count} thread{'s' * (count > 1)}"
                )
                points.append(_point(entries, count, settings))
    finally:
        torch.set_num_threads(before)
    return tuple(points)


def sizes(quick: bool) -> list[int]:
    """Return the numbers of parameters, the last one as large as half the free memory allows."""
    most = psutil.virtual_memory().available // 2 // BYTES_PER_ENTRY
    return [min(size, most) for size in (QUICK_SIZES if quick else FULL_SIZES) if size < 9 * most]


def _point(entries: int, threads: int, settings: Settings) -> ScalingPoint:
    side = min(SIDE, int(entries**0.5))
    count = max(1, round(entries / side**2))
    work = Workload("scaling", f"{count} matrices", ((side, side),) * count)
    # All step the same weights: what differs between them is what they do with them.
    tile = torch.randn(side, side)
    parameters = [Parameter(0.02 * tile) for _ in range(count)]
    for p in parameters:
        p.grad = tile.clone()
    runners = {key: Runner(CONTESTANTS[key], parameters, work) for key in COMPARED}
    slowest = max(runner.estimate for runner in runners.values())
    rounds = settings.rounds_for(slowest, full=False)
    for runner in runners.values():
        runner.rounds = rounds
    interleave(list(runners.values()), rounds)
    return ScalingPoint(work.entries, threads, rounds, medians(runners))
