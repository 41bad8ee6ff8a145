"""The command line of the studies: `nero study ...`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nero_lab.studies.plan import Study

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Settle a question by measurement, on several tasks.",
)

Quick = Annotated[
    bool, typer.Option("--quick", help="Every step of it in under a minute; compares nothing.")
]
Out = Annotated[
    Path, typer.Option(help="Directory for records, tables and picture.", file_okay=False)
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that train. Default: one per core.", show_default=False),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Train everything again; old records are set aside.")
]
FashionMnist = Annotated[
    Path, typer.Option("--data-fashion-mnist", help="Folder with the four idx files, gzipped.")
]
Anarchism = Annotated[
    Path, typer.Option("--data-anarchism", help="Folder with the texts of An Anarchist FAQ.")
]
TargetText = Annotated[
    Path, typer.Option("--data-target-text", help="Folder with the texts to fine-tune on.")
]

# As in nero_lab.data, whose modules take long to import.
_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_ANARCHISM = Path("/usr/share/doc/anarchism/markdown")
_DEBIAN_REFERENCE = Path("/usr/share/debian-reference")


@app.command()
def heads(
    quick: Quick = False,
    out: Out = Path("runs/study-heads"),
    jobs: Jobs = None,
    fresh: Fresh = False,
    data_fashion_mnist: FashionMnist = _FASHION_MNIST,
    data_anarchism: Anarchism = _ANARCHISM,
) -> None:
    """Compare constraints for heads and embeddings, with balanced hidden weights.

    On Fashion-MNIST (Debian package `dataset-fashion-mnist`), a language model on `anarchism` (a
    Debian package too) and scikit-learn's digits. Prints tables and writes `table.md`,
    `summary.json`, `scores.png` and `records.jsonl`.

    Ctrl-C keeps what is finished; the same command again resumes.
    """
    from nero_lab.studies.heads import heads_study

    folders = {"fashion-mnist": data_fashion_mnist, "anarchism": data_anarchism}
    _run(heads_study, folders, quick, out, jobs, fresh)


@app.command()
def finetune(
    quick: Quick = False,
    out: Out = Path("runs/study-finetune"),
    jobs: Jobs = None,
    fresh: Fresh = False,
    data_fashion_mnist: FashionMnist = _FASHION_MNIST,
    data_anarchism: Anarchism = _ANARCHISM,
    data_target_text: TargetText = _DEBIAN_REFERENCE,
) -> None:
    """Fine-tune networks that AdamW has trained, with Nero's presets and with AdamW.

    From five classes of Fashion-MNIST (Debian package `dataset-fashion-mnist`) to the other five,
    and from `anarchism` to another text, by default the one of `debian-reference-en` (Debian
    packages too). Prints tables and writes `table.md`, `summary.json`, `scores.png`,
    `records.jsonl` and the trained weights.

    Ctrl-C keeps what is finished; the same command again resumes.
    """
    from nero_lab.studies.finetune import finetune_study

    folders = {
        "fashion-mnist": data_fashion_mnist,
        "anarchism": data_anarchism,
        "target": data_target_text,
        "weights": out / "weights",
    }
    _run(finetune_study, folders, quick, out, jobs, fresh)


@app.command()
def precision(
    quick: Quick = False,
    out: Out = Path("runs/study-precision"),
    jobs: Jobs = None,
    fresh: Fresh = False,
    data_anarchism: Anarchism = _ANARCHISM,
) -> None:
    """Train in bfloat16 with stochastic rounding and to nearest, against float32.

    A small language model on `anarchism` (a Debian package), at two learning rates: the smaller
    the steps, the more of them the nearest rounding loses. Prints a table and writes `table.md`,
    `summary.json`, `scores.png` and `records.jsonl`.

    Ctrl-C keeps what is finished; the same command again resumes.
    """
    from nero_lab.studies.precision import precision_study

    _run(precision_study, {"anarchism": data_anarchism}, quick, out, jobs, fresh)


def _run(
    build: "Callable[[Mapping[str, str], bool], Study]",
    folders: Mapping[str, Path],
    quick: bool,
    out: Path,
    jobs: int | None,
    fresh: bool,
) -> None:
    from rich.console import Console

    from nero_lab.data.parts import MissingData
    from nero_lab.studies.run import run_study
    from nero_lab.sweeps.jobs import default_jobs

    try:
        study = build({name: str(path.absolute()) for name, path in folders.items()}, quick)
        code = run_study(study, out, jobs or default_jobs(), fresh, Console())
    except (MissingData, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        code = 1
    raise typer.Exit(code)
