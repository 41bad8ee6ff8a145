"""Every data set of the experiments: what it is, where it is looked for, and how to get it.

A data set is looked for in the folder that the user names, then under $NERO_DATA, in the cache of
`nero data get`, and where a package of the system puts it. Without it, its stand-in is looked for
in the same places. What is found goes by its own name: data that are in the right format but not
the set itself are named after their folder.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nero_lab.data.cifar import cifar_files, cifar_title
from nero_lab.data.found import FoundData
from nero_lab.data.idx import idx_files, idx_title
from nero_lab.data.image_folder import folder_digest, folder_files, folder_title
from nero_lab.data.pairs import pair_files, pair_title
from nero_lab.data.parts import MissingData, digest_files
from nero_lab.data.text import ANARCHISM, DEBIAN_REFERENCE
from nero_lab.data.words import word_files, word_title


@dataclass(frozen=True)
class Source:
    """One data set."""

    name: str
    """what commands and folders call it"""
    title: str
    what: str
    licence: str
    format: str
    """the files that are looked for, in words"""
    get: str
    """how to get it: a command"""
    files: Callable[[Path], list[Path] | None]
    """the files of a data set in this format in a folder; None: there is none"""
    recognise: Callable[[list[Path]], str | None]
    """the title of the data set that such files are; None: some other"""
    digest: Callable[[Sequence[Path]], str] = digest_files
    inside: tuple[str, ...] = ()
    """folders in a folder in which it may be too: where its usual tools put it"""
    installed: Path | None = None
    """where a package of the system puts it"""
    stand_in: str | None = None
    """the name of the data set that is used in its place"""


def _as(title: str) -> Callable[[list[Path]], str | None]:
    return lambda files: title


_SOURCES = (
    Source(
        name="mnist",
        title="MNIST",
        what="70,000 grey images of 28 x 28 pixels, handwritten digits (LeCun, Cortes, Burges)",
        licence="stated as CC BY-SA 3.0 by its distributors",
        format="train- and t10k-images-idx3-ubyte, -labels-idx1-ubyte, gzipped or not",
        get="nero data get mnist",
        files=idx_files,
        recognise=idx_title,
        inside=("MNIST/raw",),
        stand_in="fashion-mnist",
    ),
    Source(
        name="fashion-mnist",
        title="Fashion-MNIST",
        what="70,000 grey images of 28 x 28 pixels, clothes in ten classes (Xiao et al., 2017)",
        licence="MIT",
        format="as MNIST",
        get="apt-get install dataset-fashion-mnist; or: nero data get fashion-mnist",
        files=idx_files,
        recognise=idx_title,
        inside=("FashionMNIST/raw",),
        installed=Path("/usr/share/datasets/fashion-mnist"),
    ),
    Source(
        name="cifar-10",
        title="CIFAR-10",
        what="60,000 colour images of 32 x 32 pixels in ten classes (Krizhevsky, 2009)",
        licence="none stated",
        format="data_batch_1 to data_batch_5 and test_batch, the Python version",
        get="nero data get cifar-10",
        files=cifar_files,
        recognise=cifar_title,
        inside=("cifar-10-batches-py",),
        stand_in="fashion-mnist",
    ),
    Source(
        name="imagenet",
        title="ImageNet-1k",
        what="1.28 million photographs in 1000 classes (Russakovsky et al., 2015)",
        licence="for research, by the terms of image-net.org",
        format="train/CLASS/*.JPEG and val/CLASS/*.JPEG",
        get="ask for access at https://image-net.org/download.php and sort val into folders",
        files=folder_files,
        recognise=folder_title,
        digest=folder_digest,
    ),
    Source(
        name="wikitext-2",
        title="WikiText-2",
        what="two million words of good articles of Wikipedia (Merity et al., 2016)",
        licence="CC BY-SA 3.0 and GFDL",
        format="wiki.{train,valid,test}.tokens, or {train,valid,test}.txt, or any *.txt and *.md",
        get="nero data get wikitext-2",
        files=word_files,
        recognise=word_title,
        stand_in="anarchism",
    ),
    Source(
        name="anarchism",
        title="An Anarchist FAQ",
        what="a book of 1.8 million words, in Markdown",
        licence="GPL-2, as Debian states it",
        format="*.md and *.txt, gzipped or not",
        get="apt-get install anarchism",
        files=word_files,
        recognise=_as("An Anarchist FAQ"),
        installed=ANARCHISM,
    ),
    Source(
        name="debian-reference",
        title="The Debian Reference",
        what="a book on the Debian system",
        licence="GPL-2 or later",
        format="*.md and *.txt, gzipped or not",
        get="apt-get install debian-reference-en",
        files=word_files,
        recognise=_as("The Debian Reference"),
        installed=DEBIAN_REFERENCE,
    ),
    Source(
        name="multi30k",
        title="Multi30k",
        what="31,014 captions of images in German and English (Elliott et al., 2016)",
        licence="see https://github.com/multi30k/dataset",
        format="{train,val,test_2016_flickr}.{de,en}, one sentence a line, gzipped or not",
        get="nero data get multi30k",
        files=pair_files,
        recognise=pair_title,
    ),
)

SOURCES: Mapping[str, Source] = {source.name: source for source in _SOURCES}


def cache_folder() -> Path:
    """Return where `nero data get` puts data sets: $NERO_DATA, or a folder in the user's cache."""
    if folder := os.environ.get("NERO_DATA"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nero-optim"


def find_source(name: str, folder: Path | None = None) -> FoundData:
    """Return where a data set is, or its stand-in.

    Args:
        name: of the data set that the paper uses.
        folder: where the user says that it is: there, or in a folder of that name inside. Nothing
            else is looked at then. None: the usual places.

    Raises:
        MissingData: neither is there; the message says how to get them, in two lines.
    """
    source = SOURCES[name]
    stand_in = SOURCES.get(source.stand_in or "")
    for each in (source, stand_in):
        if each is not None and (found := _look(each, source, folder)) is not None:
            return found
    where = str(folder) if folder is not None else f"{cache_folder() / name}"
    instead = ""
    if stand_in is not None:
        instead = f", or its stand-in {stand_in.title}: {stand_in.get}"
    raise MissingData(
        f"no {source.title} in {where} ({source.format}).\n"
        f"Get it: {source.get}{instead}; or name its folder: --data DIR"
    )


def places(source: Source, folder: Path | None = None) -> Iterator[Path]:
    """Yield the folders in which a data set is looked for."""
    roots = [cache_folder() / source.name] if folder is None else [folder, folder / source.name]
    for root in roots:
        yield root
        yield from (root / inside for inside in source.inside)
    if folder is None and source.installed is not None:
        yield source.installed


def _look(source: Source, wanted: Source, folder: Path | None) -> FoundData | None:
    for place in places(source, folder):
        if (files := source.files(place)) is None:
            continue
        title = source.recognise(files) or f"data of {place.resolve().name}"
        stand_in_for = None if title == wanted.title else wanted.title
        return FoundData(title, source.digest(files), place, stand_in_for)
    return None
