"""An optimiser by its name in the table, or by where a user's own one is."""

import difflib
import inspect

from nero_lab.optimizers.spec import OptimizerSpec
from nero_lab.optimizers.table import OPTIMIZERS
from nero_lab.plugins.load import is_import_path, load_object


def find_optimizer(name: str) -> OptimizerSpec:
    """Return the row of an optimiser.

    Args:
        name: a name in the table, or "module:MyOpt" or "file.py:MyOpt". MyOpt is a class or a
            function that takes parameters and `lr`, with a default, and returns a
            `torch.optim.Optimizer`; or an `OptimizerSpec`, which has a grid and a label of its
            own. Without one the grid is the default and a tenth and ten times it.

    Raises:
        ValueError: there is no such row, module, file or name in it, or what is there is no
            optimiser or has no default for `lr`.

    Examples:
        >>> from nero_lab.optimizers import find_optimizer
        >>> find_optimizer("torch.optim:NAdam").lr_grid
        (0.0002, 0.002, 0.02)
    """
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    if not is_import_path(name):
        close = difflib.get_close_matches(name, OPTIMIZERS)
        raise ValueError(
            f"no optimiser is called {name!r}"
            + (f"; did you mean {' or '.join(map(repr, close))}?" if close else ".")
            + f' There are {", ".join(OPTIMIZERS)}; or name your own: "module:MyOpt", '
            '"file.py:MyOpt"'
        )
    loaded = load_object(name)
    if isinstance(loaded, OptimizerSpec):
        return loaded
    return _row_of(name, loaded)


def _row_of(name: str, factory: object) -> OptimizerSpec:
    if not callable(factory):
        raise ValueError(
            f"{name} is a {type(factory).__name__}; an optimiser is a class or function of "
            "parameters and lr, or an OptimizerSpec"
        )
    parameter = inspect.signature(factory).parameters.get("lr")
    default = None if parameter is None else parameter.default
    # Without an upper bound on types: a default may be an int or a 0-d tensor.
    try:
        lr = float(default)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} has no default for lr, which is the default learning rate: give it "
            "one, or name an OptimizerSpec that has it"
        ) from None
    return OptimizerSpec(
        name=name,
        label=getattr(factory, "__name__", name),
        factory=name,
        default_lr=lr,
        default_lr_source=name,
        # Rounded, so that ten times 0.001 is 0.01 in the records too.
        lr_grid=tuple(float(f"{lr * factor:.12g}") for factor in (0.1, 1, 10)),
        notes="A user's own.",
    )
