"""The table of the optimisers that are compared.

Whatever differs between two optimisers in a comparison is a field of a row here, and the report
prints it from here.
"""

from collections.abc import Mapping

from nero_lab.optimizers.spec import OptimizerSpec

_SPECS = (
    OptimizerSpec(
        name="nero",
        label="Nero",
        factory="nero:Nero",
        default_lr=0.01,
        default_lr_source="nero.Nero, as in the paper",
        lr_grid=(1e-3, 1e-2, 1e-1),
        by_neuron=True,
        notes="No momentum, weight decay or warm-up, as in the paper. Building it projects the "
        "initial weights.",
    ),
    *(
        OptimizerSpec(
            name=f"nero-{constraint}",
            label=f"Nero, {label}",
            factory="nero:Nero",
            default_lr=0.01,
            default_lr_source="nero.Nero, as in the paper",
            lr_grid=(1e-3, 1e-2, 1e-1),
            options=options,
            by_neuron=True,
            notes="An ablation of Nero's constraints (figure 1 of the paper).",
        )
        for constraint, label, options in (
            ("none", "no constraint", {"center": False, "radius": None}),
            ("mean", "mean only", {"center": True, "radius": None}),
            ("norm", "norm only", {"center": False, "radius": "unit"}),
        )
    ),
    *(
        OptimizerSpec(
            name=f"nero-for-model{name}",
            label=f"Nero, recommended{label}",
            factory=f"nero_lab.optimizers.recommended:{factory}",
            default_lr=0.05,
            default_lr_source="nero.for_model",
            lr_grid=(0.015, 0.05, 0.15),
            options=options,
            by_model=True,
            notes="nero.for_model with one training batch: orthogonal directions for hidden "
            "weights, learning rates by depth, isometric initial weights in plain chains. The "
            "learning rate is its turn.",
        )
        for name, label, factory, options in (
            ("", "", "recommended", {"momentum": 0.9}),
            ("-plain", ", no momentum", "without_momentum", {}),
        )
    ),
    OptimizerSpec(
        name="sgd",
        label="SGD",
        factory="torch.optim:SGD",
        default_lr=1e-3,
        default_lr_source="torch.optim.SGD",
        lr_grid=(1e-3, 1e-2, 1e-1),
        options={"momentum": 0.9, "fused": True},
        notes="With its customary momentum (torch's own default is 0). No weight decay.",
    ),
    OptimizerSpec(
        name="adam",
        label="Adam",
        factory="torch.optim:Adam",
        default_lr=1e-3,
        default_lr_source="torch.optim.Adam",
        lr_grid=(1e-4, 1e-3, 1e-2),
        warmup=0.05,
        options={"fused": True},
        notes="Betas 0.9 and 0.999, eps 1e-8: torch's defaults. No weight decay.",
    ),
    OptimizerSpec(
        name="adamw",
        label="AdamW",
        factory="torch.optim:AdamW",
        default_lr=1e-3,
        default_lr_source="torch.optim.AdamW",
        lr_grid=(1e-4, 1e-3, 1e-2),
        warmup=0.05,
        options={"fused": True},
        notes="Betas 0.9 and 0.999, eps 1e-8, weight decay 0.01: torch's defaults.",
    ),
    OptimizerSpec(
        name="lamb",
        label="LAMB",
        factory="pytorch_optimizer:Lamb",
        default_lr=1e-3,
        default_lr_source="pytorch_optimizer.Lamb",
        lr_grid=(1e-3, 1e-2, 1e-1),
        warmup=0.05,
        notes="pytorch-optimizer's defaults: betas 0.9 and 0.999, no weight decay.",
    ),
    OptimizerSpec(
        name="lamb-balanced",
        label="LAMB, balanced",
        factory="pytorch_optimizer:Lamb",
        default_lr=1e-3,
        default_lr_source="pytorch_optimizer.Lamb",
        lr_grid=(1e-3, 1e-2, 1e-1),
        warmup=0.05,
        by_neuron=True,
        balanced=True,
        notes="LAMB with Nero's projection before the first and after each step (figure 2 of the "
        "paper).",
    ),
    OptimizerSpec(
        name="madam",
        label="Madam",
        factory="nero_lab.optimizers.madam:Madam",
        default_lr=0.01,
        default_lr_source="the paper of Madam (Bernstein et al., 2020)",
        lr_grid=(1e-3, 1e-2, 1e-1),
        notes="beta 0.999, the normalised gradient held to 8, weights to 3 times their tensor's "
        "initial root mean square. Weights that are zero stay zero.",
    ),
    OptimizerSpec(
        name="madam-balanced",
        label="Madam, balanced",
        factory="nero_lab.optimizers.madam:Madam",
        default_lr=0.01,
        default_lr_source="the paper of Madam (Bernstein et al., 2020)",
        lr_grid=(1e-3, 1e-2, 1e-1),
        by_neuron=True,
        balanced=True,
        notes="Madam with Nero's projection before the first and after each step (figure 2 of the "
        "paper).",
    ),
    OptimizerSpec(
        name="muon",
        label="Muon",
        factory="nero_lab.optimizers.muon:muon",
        default_lr=1e-3,
        default_lr_source="torch.optim.Muon and torch.optim.AdamW",
        lr_grid=(1e-4, 1e-3, 1e-2),
        warmup=0.05,
        by_neuron=True,
        options={"weight_decay": 0.1},
        notes="pytorch-optimizer's Muon for hidden matrices and convolutions, AdamW for "
        "embeddings, the head (where the task names one), gains and biases, under one learning "
        "rate (Moonlight's scaling). Momentum 0.95, weight decay 0.1: torch.optim.Muon's defaults.",
    ),
    OptimizerSpec(
        name="adafactor",
        label="Adafactor",
        factory="torch.optim:Adafactor",
        default_lr=0.01,
        default_lr_source="torch.optim.Adafactor",
        lr_grid=(1e-3, 1e-2, 1e-1),
        warmup=0.05,
        notes="torch's defaults. Its step is relative to the tensor's root mean square and never "
        "above 1 / sqrt(t) of it at step t, whatever the learning rate.",
    ),
    OptimizerSpec(
        name="schedule-free",
        label="Schedule-Free AdamW",
        factory="schedulefree:AdamWScheduleFree",
        default_lr=0.0025,
        default_lr_source="schedulefree.AdamWScheduleFree",
        lr_grid=(2.5e-4, 2.5e-3, 2.5e-2),
        warmup=0.05,
        follows_schedule=False,
        notes="Averages its weights instead of lowering the learning rate, so the task's decay "
        "does not apply to it. No weight decay: the package's default. Measured on the average, "
        "which the statistics of BatchNorm belong to only roughly.",
    ),
)

OPTIMIZERS: Mapping[str, OptimizerSpec] = {spec.name: spec for spec in _SPECS}
