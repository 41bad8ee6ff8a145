"""One table of the optimisers that are compared, and of what each of them is given."""

from nero_lab.optimizers.find import find_optimizer
from nero_lab.optimizers.spec import OptimizerSpec
from nero_lab.optimizers.table import OPTIMIZERS

__all__ = ["OPTIMIZERS", "OptimizerSpec", "find_optimizer"]
