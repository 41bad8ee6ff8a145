"""The command line of the optimisers: `nero optimizers`."""


def optimizers() -> None:
    """List the optimisers that are compared, and what each of them is given."""
    from nero_lab.cli.tables import print_table
    from nero_lab.optimizers import OPTIMIZERS

    print_table(
        ("name", "default lr", "lr grid", "other settings", "built by"),
        [
            (
                spec.name,
                f"{spec.default_lr:g}",
                " ".join(f"{lr:g}" for lr in spec.lr_grid),
                spec.settings(),
                spec.factory.replace(":", "."),
            )
            for spec in OPTIMIZERS.values()
        ],
    )
