"""Stand-ins for training that a spawned process can import."""

import os
import signal
import time

from nero_lab.records import RunConfig, RunResult


def end_by_seed(config: RunConfig) -> RunResult:
    """Seed 0 dies as when memory runs out, seed 1 finishes soon, and other seeds never do."""
    if config.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1 if config.seed == 1 else 3600)
    return RunResult("finished", 1, 1.0, 0.5, 0.5, 0.5, {})
