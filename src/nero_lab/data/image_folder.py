"""Images in folders named after their classes, read as they are needed: ImageNet's recipe."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training images, by channel."""
_IMAGENET = (1_281_167, 50_000, 1000)
_LARGER = 256 / 224
"""How much larger than its centre crop an image is made for evaluation."""


def folder_files(folder: Path) -> list[Path] | None:
    """Return the images under `train` and `val`, or None where there is no such folder."""
    parts = [folder / "train", folder / "val"]
    if not all(part.is_dir() for part in parts):
        return None
    return sorted(f for part in parts for f in part.glob("*/*") if f.is_file()) or None


def folder_title(files: Sequence[Path]) -> str | None:
    """Return "ImageNet-1k" where there are as many images and classes as it has."""
    train = [file for file in files if file.parts[-3] == "train"]
    counts = (len(train), len(files) - len(train), len({file.parts[-2] for file in train}))
    return "ImageNet-1k" if counts == _IMAGENET else None


def folder_digest(files: Sequence[Path]) -> str:
    """Return what identifies the images by their names and sizes: reading all takes too long."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{'/'.join(file.parts[-3:])} {file.stat().st_size}\0".encode())
    return digest.hexdigest()[:16]


class FolderLoader:
    """Batches of (images, classes) from a folder; see `nero_lab.experiments.task.Loader`.

    Images are (batch, 3, pixels, pixels). For training, a random part of the image, of 8 to 100 %
    of its area, is scaled to that and mirrored half of the time; for evaluation, the centre is
    taken. That is the usual recipe for ImageNet.

    Args:
        folder: with a folder for each class.
        batch_size: images of a batch, over all devices together.
        pixels: height and width.
        rows: which images, None: all.
        workers: processes that read; 0: this one.
    """

    def __init__(
        self,
        folder: Path,
        batch_size: int,
        *,
        pixels: int = 224,
        rows: Sequence[int] | None = None,
        workers: int = 0,
    ) -> None:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        self.batch_size = batch_size
        self.workers = workers
        end = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
        self._images = ImageFolder(folder)
        self._rows = list(range(len(self._images))) if rows is None else list(rows)
        self._augment = v2.Compose(
            [v2.ToImage(), v2.RandomResizedCrop(pixels), v2.RandomHorizontalFlip(), *end]
        )
        self._centre = v2.Compose(
            [v2.ToImage(), v2.Resize(round(pixels * _LARGER)), v2.CenterCrop(pixels), *end]
        )

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return len(self._images.classes)

    @property
    def labels(self) -> list[int]:
        """Return the class of each image."""
        return [self._images.targets[row] for row in self._rows]

    def __len__(self) -> int:
        return -(-len(self._rows) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Yield every image once, in order, its centre: what is evaluated."""
        batches = [
            [(row, None) for row in self._rows[start : start + self.batch_size]]
            for start in range(0, len(self._rows), self.batch_size)
        ]
        yield from self._read(batches)

    def batches(
        self, epoch: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Any]:
        """Yield the batches of an epoch for one device of several, from the step `first` on."""
        # An epoch's own generator, which also seeds what is drawn for each image, so that a run
        # that comes back in the middle of an epoch sees the same crops.
        generator = torch.Generator().manual_seed(hash((seed, epoch)) % 2**63)
        order = torch.randperm(len(self._rows), generator=generator)
        seeds = torch.randint(2**62, (len(self._rows),), generator=generator)
        batches = []
        for at in order.split(self.batch_size)[first:]:
            share = at[: len(at) // world * world][rank::world].tolist()
            if share:
                batches.append([(self._rows[row], int(seeds[row])) for row in share])
        yield from self._read(batches)

    def _read(self, batches: Sequence[Sequence[tuple[int, int | None]]]) -> Iterator[Any]:
        dataset = _Transformed(self._images, self._augment, self._centre)
        # A list of batches is a sampler of them.
        sampler: Any = batches
        return iter(DataLoader(dataset, batch_sampler=sampler, num_workers=self.workers))


class _Transformed(Dataset):
    """Images by (row, seed of what is drawn); without a seed, their centres."""

    def __init__(self, images: "ImageFolder", augment: "v2.Compose", centre: "v2.Compose") -> None:
        self.images, self.augment, self.centre = images, augment, centre

    def __getitem__(self, at: tuple[int, int | None]) -> tuple[torch.Tensor, int]:
        row, seed = at
        try:
            image, label = self.images[row]
        except (OSError, SyntaxError) as error:  # Pillow raises either of a damaged file
            raise ValueError(f"{self.images.samples[row][0]} is no image: {error}") from None
        if seed is None:
            return self.centre(image), label
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.augment(image), label
