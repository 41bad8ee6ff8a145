"""Loaders of data that fit into memory."""

from nero_lab.data.loaders import ShortEpochs, TensorLoader, Transform
from nero_lab.data.parts import Parts, Split
from nero_lab.experiments.task import Data


def loaders(
    parts: Parts,
    batch_size: int,
    *,
    eval_rows: int = 500,
    train_eval_rows: int = 2000,
    transform: Transform | None = None,
    epoch_steps: int | None = None,
) -> Data:
    """Return loaders of three parts; of none for validation where that part has no rows.

    Args:
        parts: of the data.
        batch_size: rows of a training batch.
        eval_rows: rows that are evaluated at once.
        train_eval_rows: of the training part, how many are evaluated once training is over.
        transform: what is done to the inputs of a training batch.
        epoch_steps: of an epoch; None: as many as there are batches.
    """
    train = TensorLoader(parts.train, batch_size, transform=transform)
    some = Split(parts.train.x[:train_eval_rows], parts.train.y[:train_eval_rows])
    return Data(
        train=train if epoch_steps is None else ShortEpochs(train, epoch_steps),
        val=TensorLoader(parts.val, eval_rows) if len(parts.val.x) else None,
        test=TensorLoader(parts.test, eval_rows),
        train_eval=TensorLoader(some, eval_rows),
    )
