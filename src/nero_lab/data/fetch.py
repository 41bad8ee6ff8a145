"""Fetches data sets with torchvision and Hugging Face datasets, into the formats that are read."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from nero_lab.data.pairs import SOURCE, TARGET


def fetch(name: str, folder: Path) -> None:
    """Fetch a data set into a folder.

    Args:
        name: one of FETCHERS.
        folder: where to put it; made where it is missing.

    Raises:
        ValueError: this data set cannot be fetched.
    """
    if name not in FETCHERS:
        raise ValueError(f"{name!r} cannot be fetched; these can: {', '.join(FETCHERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    FETCHERS[name](folder)


def _torchvision(name: str) -> Callable[[Path], None]:
    def fetch_images(folder: Path) -> None:
        import torchvision.datasets

        getattr(torchvision.datasets, name)(folder, download=True)

    return fetch_images


def _wikitext_2(folder: Path) -> None:
    import datasets

    parts = datasets.load_dataset("Salesforce/wikitext", "wikitext-2-v1")
    for part, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        lines = (row.rstrip("\n") for row in parts[part]["text"])
        _write(folder / f"wiki.{name}.tokens", lines)


def _multi30k(folder: Path) -> None:
    import datasets

    parts = datasets.load_dataset("bentrevett/multi30k")
    names = (("train", "train"), ("validation", "val"), ("test", "test_2016_flickr"))
    for part, name in names:
        for language in (SOURCE, TARGET):
            lines = (" ".join(sentence.split()) for sentence in parts[part][language])
            _write(folder / f"{name}.{language}", lines)


def _write(path: Path, lines: Iterable[str]) -> None:
    # Under its own name only when it is whole: the process may be stopped at any moment.
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    unfinished.replace(path)


FETCHERS: Mapping[str, Callable[[Path], None]] = {
    "mnist": _torchvision("MNIST"),
    "fashion-mnist": _torchvision("FashionMNIST"),
    "cifar-10": _torchvision("CIFAR10"),
    "wikitext-2": _wikitext_2,
    "multi30k": _multi30k,
}
