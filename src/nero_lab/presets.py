"""The sizes in which the demo comes."""

from nero_lab.plan import Preset, Schedule

# A step of the 100-layer network costs twice as much, and the whole comparison is to fit into
# minutes: it trains for fewer epochs. Its learning rate falls by the same factor in the end.
_FIFTY = Schedule(epochs=100, lr_decay=0.96)
_HUNDRED = Schedule(epochs=20, lr_decay=0.96**5)

DEMO = Preset(name="demo", schedules={50: _FIFTY, 100: _HUNDRED}, seeds=(0, 1, 2), batch_size=128)

QUICK = Preset(
    name="quick",
    schedules={50: _FIFTY},
    seeds=(0,),
    batch_size=128,
    lr_grids={"nero": (1e-2,), "sgd": (1e-3,), "adam": (1e-3,), "lamb": (1e-3,)},
    left_out="it leaves out two of three seeds, the 100-layer network, and the learning-rate grids "
    "(best means out of the box here). Its runs count towards the whole demo.",
)

# For tests: everything that the demo does, in a few seconds.
TINY = Preset(
    name="tiny",
    schedules={3: Schedule(epochs=2, lr_decay=0.95)},
    seeds=(0, 1),
    batch_size=64,
    lr_grids={"nero": (1e-2,), "sgd": (1e-3,), "adam": (1e-3, 1e-2), "lamb": (1e-3,)},
    left_out="far too small to compare anything.",
)

PRESETS = {preset.name: preset for preset in (DEMO, QUICK, TINY)}
