"""Named settings, one set for each network, rule and data set of the papers.

A preset's values take the place of defaults, a TOML file's that of the preset's, and the command line's that of both.
What a paper publishes of its training stands here as published, and what it does not is ours: a group's line says what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ffdist.errors import ConfigError
from ffdist.options import nearest
from ffdist.settings import Settings, apply

Values = dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """Named settings, with a line that says what they are for."""

    summary: str
    settings: Values = field(default_factory=dict)


NAMES = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenette": "Imagenette",
}
AUGMENT: Mapping[str, list[str]] = {
    "mnist": ["crop"],
    "fashion-mnist": ["flip"],
    "cifar10": ["crop", "flip"],
    "cifar100": ["crop", "flip"],
    "imagenette": ["crop", "flip"],
}
"""Ours: the papers that augment name crops and flips of CIFAR alone."""


def preset_of(data: str, summary: str, *layers: Values) -> Preset:
    """A preset of one data set; later layers over earlier ones."""
    merged: Values = {"data": data}
    for layer in layers:
        merged |= layer
    return Preset(f"{summary}, {NAMES[data]}", merged)


def own_values(data: str) -> Values:
    """Our own values, where nothing is published."""
    return {"augment": AUGMENT[data], "precision": "bf16"}


# The rules' own settings

HINTON: Values = {
    "model": "mlp",
    "batch_size": 100,
    "epochs": 100,
    "optimizer": "sgd",
    "lr": 1e-3,
    "weight_decay": 3e-4,
    "schedule": "linear-late",
    "validation": 0.0,
    "precision": "bf16",
}
LOEWEX: Values = {"model_args": ["widths=1000,1000,1000", "init=fan-out"]}
SEL: Values = {
    "model": "sel-cnn",
    "batch_size": 50,
    "epochs": 200,
    "optimizer": "adam",
    "lr": 5e-5,
    "weight_decay": 0.0,
    "schedule": "constant",
    "validation": 0.0,
}
CWC: Values = {
    "model": "cfse-cnn",
    "objective": "cwc",
    "optimizer": "adam",
    "lr": 1e-2,
    "weight_decay": 0.0,
    "schedule": "constant",
    "validation": 0.0,
}
CWC_WINDOWS: Mapping[str, Values] = {
    "mnist": {"epochs": 5, "windows": ["0:2", "0:3", "0:4", "0:5"]},
    "fashion-mnist": {"epochs": 23, "windows": ["0:10", "0:15", "0:19", "0:23"]},
    "cifar10": {"epochs": 25, "windows": ["0:11", "0:16", "0:21", "0:25"]},
    "cifar100": {"epochs": 85, "windows": ["0:30", "0:30", "30:60", "30:60", "60:85", "60:85"]},
}
CWC_100: Values = {
    "model_args": ["widths=60,120,240,400,800,1600", "groups=20,20,100"],
    "objective_args": ["superclass_blocks=4"],
}
CWC_MOD: Values = {"objective": "cwc-mod", "epochs": 100, "schedule": "plateau", "early_stop": 30, "lr": 3e-3}
SFF: Values = {"epochs": 60, "lr": 3e-3}
SHORTER: Mapping[str, Values] = {
    "mnist": {"epochs": 12, "lr": 2e-3},
    "fashion-mnist": {"epochs": 20, "lr": 2e-3},
    "cifar100": {"epochs": 30},
}
KERNEL = {"mnist": 3, "fashion-mnist": 3, "cifar10": 5, "cifar100": 3}
DEEP: Values = {"batch_size": 64, "objective_args": ["kernel=1"]}
ASGE: Values = {
    "objective": "asge",
    "model_args": ["norm=false", "pool=avg", "pool_first=true"],
    "epochs": 100,
    "lr": 2e-4,
    "weight_decay": 1e-3,
    "validation": 0.0,
    "fusion": True,
}
PREDSIM: Values = {
    "objective": "predsim",
    "optimizer": "adam",
    "lr": 5e-4,
    "weight_decay": 0.0,
    "epochs": 400,
    "validation": 0.0,
}
FAST: Values = {
    "model": "speednet",
    "batch_size": 512,
    "epochs": 6,
    "optimizer": "muon",
    "lr": 0.12,
    "head_lr": 0.7,
    "bias_lr": 27.0,
    "weight_decay": 0.0,
    "momentum": 0.85,
    "muon_momentum": 0.6,
    "nesterov": True,
    "ns_steps": 3,
    "unit_filters": True,
    "schedule": "linear",
    "warmup": 0.23,
    "start": 0.2,
    "end": 0.07,
    "label_smoothing": 0.2,
    "validation": 0.0,
    "augment": ["shift", "alternate"],
    "precision": "bf16",
}
MOVED: Mapping[str, Values] = {"mnist": {"augment": ["shift"]}, "fashion-mnist": {"augment": ["shift", "alternate"]}}
BY_K: Values = {
    "objective": "dgl",
    "objective_args": ["auxiliary=conv", "depth=1", "width=128"],
    "epochs": 20,
    "validation": 0.0,
    "schedule": "one-cycle",
    "end": 0.01,
    "label_smoothing": 0.1,
}
NARROW: Mapping[str, Values] = {
    "vgg8": {"model": "vgg8", "model_args": ["widths=64,-128,128,-256,-256,-256,256"]},
    "resnet18": {"model": "resnet18", "model_args": ["widths=32,64,128,256", "split=block"]},
}
SMALL_PICTURES = ("mnist", "fashion-mnist", "cifar10", "cifar100")

GROUPS: dict[str, dict[str, Preset]] = {
    "to begin with": {
        "digits": Preset(
            "CNNB by SFF on the embedded 8x8 digits, in seconds",
            {
                "data": "digits",
                "model": "cnnb",
                "objective_args": ["kernel=3"],
                "epochs": 30,
                "batch_size": 32,
                "augment": ["crop"],
            },
        ),
    },
    "Hinton (arXiv 2212.13345); settings of loweX/Forward-Forward, but for a plain ReLU (there its gradient passes "
    "dead units), all samples for training (there 50,000) and one rate for head and blocks (there 10 times it); "
    "2000: the paper's 4 x 2000": {
        **{
            f"hinton-mlp-{data}": preset_of(
                data,
                "MLP 3 x 1000, supervised, by goodness and by a linear layer",
                HINTON,
                LOEWEX,
                {"objective": "hinton", "objective_args": ["peer=0.03", "predict=both"], "fusion": True},
            )
            for data in SMALL_PICTURES[:3]
        },
        "hinton-mlp2000-mnist": preset_of(
            "mnist",
            "MLP 4 x 2000, supervised, by goodness",
            HINTON,
            {"objective": "hinton", "objective_args": ["peer=0.03"], "model_args": ["init=fan-out"]},
        ),
        **{
            f"hinton-unsupervised-mlp-{data}": preset_of(
                data,
                "MLP 3 x 1000 on hybrid pictures, a linear layer predicts",
                HINTON,
                LOEWEX,
                {"objective": "hinton-unsupervised", "fusion": True, "objective_args": ["peer=0.03"]},
            )
            for data in SMALL_PICTURES[:3]
        },
    },
    "spatially extended labels (arXiv 2312.14924); ours on CIFAR: 6 convolutions, 2 pools": {
        f"sel-{kind}-{data}": preset_of(
            data,
            f"{kind} labels",
            SEL,
            {"objective": f"sel-{kind}"},
            {"model_args": ["depth=6", "pool_every=2"]} if "cifar" in data else {},
        )
        for kind in ("fourier", "morphological")
        for data in SMALL_PICTURES[: 4 if kind == "fourier" else 3]
    },
    "channel-wise competition (AAAI 2024; windows of the authors' code, CwComp); ours: no schedule": {
        **{
            f"cwc-{data}": preset_of(data, "CFSE network, interleaved training", CWC, CWC_WINDOWS[data])
            for data in SMALL_PICTURES[:3]
        },
        "cwc-cifar100": preset_of(
            "cifar100",
            "CFSE network of 6 convolutions, super-classes in 4 of them",
            CWC,
            CWC_WINDOWS["cifar100"],
            CWC_100,
        ),
    },
    "CwC-mod (arXiv 2501.03176); ours: lr, widths that 10 divides": {
        **{
            f"cwc-mod-{net}-cifar10": preset_of(
                "cifar10",
                net.upper(),
                CWC_MOD,
                own_values("cifar10"),
                {"model": net, "model_args": ["widths=30,60,120"]},
            )
            for net in ("cnn", "cnnb")
        },
        "cwc-mod-resnet18-imagenette": preset_of(
            "imagenette",
            "ResNet18",
            CWC_MOD,
            own_values("imagenette"),
            {
                "model": "resnet18",
                "batch_size": 64,
                "model_args": ["stem=7", "split=stem-group", "widths=60,130,260,510"],
            },
        ),
    },
    "SFF (arXiv 2501.03176); ours: lr, cosine schedule, epochs, augmentation; off CIFAR the kernel": {
        **{
            f"sff-{net}-{data}": preset_of(
                data,
                f"{net.upper()}, auxiliary convolution {KERNEL[data]}x{KERNEL[data]}",
                SFF,
                own_values(data),
                {"model": net, "objective_args": [f"kernel={KERNEL[data]}"]},
                SHORTER.get(data, {}),
            )
            for net in ("cnn", "cnnb")
            for data in SMALL_PICTURES
        },
        **{
            f"sff-resnet18-{data}": preset_of(
                data,
                "ResNet18 in 5 blocks, 3x3 stem",
                SFF,
                own_values(data),
                {"model": "resnet18", "model_args": ["split=stem-group"], "objective_args": ["kernel=1"]},
            )
            for data in ("cifar10", "cifar100")
        },
        "sff-resnet18-imagenette": preset_of(
            "imagenette",
            "ResNet18 in 5 blocks",
            SFF,
            own_values("imagenette"),
            DEEP,
            {"model": "resnet18", "model_args": ["stem=7", "split=stem-group"]},
        ),
        "sff-mobilenet-imagenette": preset_of(
            "imagenette",
            "MobileNetV3-small in 12 blocks",
            SFF,
            own_values("imagenette"),
            DEEP,
            {"model": "mobilenet-v3-small"},
        ),
    },
    "ASGE (2025); ours: crops and flips alone, cosine to 0": {
        f"asge-{net}-{data}": preset_of(data, f"{net.upper()} without norms", ASGE, {"model": net}, own_values(data))
        for net in ("vgg8", "vgg11")
        for data in SMALL_PICTURES
    },
    "fast (settings after airbench, arXiv 2404.00498); modules of two or three convolutions, their heads of several "
    "layers": {
        **{
            f"auglocal-speednet-{data}": preset_of(
                data,
                "3 modules, narrow copies of what follows as heads (arXiv 2402.17318)",
                FAST,
                {"objective": "auglocal", "objective_args": ["width=96", "pool=max", "scale=0.1111"]},
                MOVED.get(data, {}),
            )
            for data in SMALL_PICTURES
        },
        **{
            f"dgl-speednet-{data}": preset_of(
                data,
                "3 modules, a convolution as head (arXiv 1901.08164)",
                FAST,
                {"objective": "dgl", "bias_lr": 0.5, "objective_args": ["auxiliary=conv", "depth=1", "width=128"]},
            )
            for data in ("cifar10", "cifar100")
        },
        **{
            f"backprop-speednet-{data}": preset_of(
                data, "the same network by backpropagation", FAST, {"objective": "backprop"}, MOVED.get(data, {})
            )
            for data in SMALL_PICTURES
        },
    },
    "beyond; ours: schedules, augmentation, and what is not VGG11": {
        **{
            f"predsim-vgg11-{data}": preset_of(
                data, "VGG11, similarity matching (arXiv 1901.06656)", PREDSIM, own_values(data), {"model": "vgg11"}
            )
            for data in ("cifar10", "cifar100")
        },
        "predsim-cnnb-cifar10": preset_of(
            "cifar10", "CNNB, similarity matching", PREDSIM, own_values("cifar10"), {"model": "cnnb", "epochs": 60}
        ),
        "mono-forward-cnnb-cifar10": preset_of(
            "cifar10",
            "CNNB, learned projections (arXiv 2501.09238)",
            own_values("cifar10"),
            {"model": "cnnb", "objective": "mono-forward", "epochs": 60},
        ),
        "deeperforward-cnn-cifar10": preset_of(
            "cifar10",
            "CNN, mean goodness; lr, decay, dropout as there (ICLR 2025)",
            own_values("cifar10"),
            {
                "model": "cnn",
                "model_args": ["widths=40,80,160"],
                "lr": 0.08,
                "objective": "deeperforward",
                "objective_args": ["dropout=0.2"],
                "weight_decay": 5e-4,
                "epochs": 60,
            },
        ),
        **{
            f"dgl-{net}-cifar10": preset_of(
                "cifar10",
                f"{net.upper()} of half the filters, a convolution as head; --modules K",
                own_values("cifar10"),
                NARROW[net],
                BY_K,
            )
            for net in NARROW
        },
        "local-ce-cnnb-cifar10": preset_of(
            "cifar10",
            "CNNB, a linear classifier a block",
            own_values("cifar10"),
            {"model": "cnnb", "objective": "local-ce", "epochs": 60},
        ),
    },
}
"""Presets by where they come from."""

PRESETS: dict[str, Preset] = {name: preset for group in GROUPS.values() for name, preset in group.items()}


def with_preset(settings: Settings, name: str) -> Settings:
    """`settings` with those of a preset. Raises ConfigError, with the nearest name, for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"there is no preset '{name}'", where="ffdist train PRESET", remedy=nearest(name, PRESETS))
    return apply(settings, PRESETS[name].settings, f"preset {name}")


def listing() -> str:
    """The presets' names by group, for people."""
    return "\n".join(f"  {group}:\n    {', '.join(presets)}" for group, presets in GROUPS.items())
