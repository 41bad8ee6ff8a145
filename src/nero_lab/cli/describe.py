"""The command line of a model's groups: `nero describe`."""

from typing import Annotated

import typer


def describe(
    model: Annotated[
        str,
        typer.Argument(help="A torchvision model, or the path of a Hugging Face config.json."),
    ],
    preset: Annotated[str, typer.Option(help="balanced, paper or finetune.")] = "balanced",
    head: Annotated[
        str | None, typer.Option(help="Name of the module that makes the output.")
    ] = None,
) -> None:
    """Show what each parameter of a model is to Nero, and what state it costs beside Adam's.

    Builds the model without weights or memory, and changes nothing.

    For example:

    - `nero describe resnet50 --head fc`

    - `nero describe path/to/config.json --preset finetune`
    """
    import nero
    from nero_lab.models.zoo import load_model

    try:
        table = nero.describe(load_model(model), preset=preset, head=head)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(str(table))
