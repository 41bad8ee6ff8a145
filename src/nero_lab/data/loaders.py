"""Batches of tensors in memory, in an order that a seed decides and a run can come back to."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""inputs of a batch, and a generator for what it draws -> inputs, such as crops of them"""


class TensorLoader:
    """Batches from tensors with equally many rows; see `nero_lab.experiments.task.Loader`.

    Args:
        tensors: inputs, then targets, (rows, ...) each.
        batch_size: rows of a batch, over all devices together.
        shuffle: whether `batches` draws the rows of an epoch in a new order.
        transform: what is done to the inputs of a batch in `batches`, such as random crops. Its
            generator is seeded by the run's seed, the epoch and the step.
        drop_last: leave out the last batch of an epoch where it is smaller than the others.

    Examples:
        >>> loader = TensorLoader((torch.arange(5), torch.arange(5)), batch_size=2)
        >>> [x.tolist() for x, _ in loader]
        [[0, 1], [2, 3], [4]]
        >>> whole = [x.tolist() for x, _ in loader.batches(epoch=1, seed=0)]
        >>> [x.tolist() for x, _ in loader.batches(epoch=1, seed=0, first=1)] == whole[1:]
        True
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        batch_size: int,
        *,
        shuffle: bool = True,
        transform: Transform | None = None,
        drop_last: bool = False,
    ) -> None:
        self.tensors = tuple(tensors)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.transform = transform
        self.drop_last = drop_last
        self._drawn: tuple[int, int, torch.Generator] | None = None

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self.tensors[0])

    def __len__(self) -> int:
        whole, rest = divmod(self.rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield every row once, in order and untransformed: what is evaluated."""
        yield from zip(*(tensor.split(self.batch_size) for tensor in self.tensors), strict=True)

    def batches(
        self, epoch: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of an epoch for one device of several, from the step `first` on."""
        order = self._order(epoch, seed).split(self.batch_size)
        for step in range(first, len(self)):
            # Equal shares, so that the mean of the devices' gradients is the batch's own.
            share = order[step][: len(order[step]) // world * world][rank::world]
            if not len(share):
                continue
            x, *rest = (tensor[share] for tensor in self.tensors)
            if self.transform is not None:
                x = self.transform(x, _generator(seed, epoch, step, rank))
            yield (x, *rest)

    def _order(self, epoch: int, seed: int) -> Tensor:
        """Return the rows in the order of an epoch: the (epoch + 1)th that the seed draws."""
        if not self.shuffle:
            return torch.arange(self.rows)
        if self._drawn is None or self._drawn[0] != seed or self._drawn[1] > epoch:
            self._drawn = seed, 0, torch.Generator().manual_seed(seed)
        _, drawn, generator = self._drawn
        for _ in range(drawn, epoch):
            torch.randperm(self.rows, generator=generator)
        order = torch.randperm(self.rows, generator=generator)
        self._drawn = seed, epoch + 1, generator
        return order


class ShortEpochs:
    """Epochs of a few steps each, which together run through a loader again and again.

    A run is evaluated after epochs, and so may be evaluated before it has seen all of its data.

    Args:
        loader: whose batches they are; what is evaluated are all of its rows.
        steps: of an epoch.

    Examples:
        >>> loader = TensorLoader((torch.arange(5), torch.arange(5)), 2, shuffle=False)
        >>> short = ShortEpochs(loader, steps=2)
        >>> [[x.tolist() for x, _ in short.batches(epoch, seed=0)] for epoch in range(2)]
        [[[0, 1], [2, 3]], [[4], [0, 1]]]
    """

    def __init__(self, loader: TensorLoader, steps: int) -> None:
        self.loader, self.steps = loader, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield every row once, in order."""
        return iter(self.loader)

    def batches(
        self, epoch: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of a short epoch for one device of several, from a step on."""
        done, at = divmod(epoch * self.steps + first, len(self.loader))
        left = self.steps - first
        while left > 0:
            whole = self.loader.batches(done, seed=seed, first=at, rank=rank, world=world)
            yield from islice(whole, left)
            left, done, at = left - (len(self.loader) - at), done + 1, 0


def _generator(*numbers: int) -> torch.Generator:
    # A tuple of integers hashes to the same number in every process.
    return torch.Generator().manual_seed(hash(numbers) % 2**63)
