"""Things that go by a name: networks, rules, transforms, transports, baselines. The names cost nothing; what one stands
for is imported when it is asked for, so that `--help` needs no torch, and a network without torchvision's layers no
torchvision."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class LazyNames(Mapping[str, T]):
    """Things by name, each given by its place, "module:attribute"."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = dict(places)

    def __getitem__(self, name: str) -> T:
        module, _, attribute = self.places[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: object) -> bool:  # the default looks the thing up
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


MODEL_PLACES = {
    "mlp": "ffdist.models.mlp:mlp",
    "cnn": "ffdist.models.cnn:cnn",
    "cnnb": "ffdist.models.cnn:cnnb",
    "cfse-cnn": "ffdist.models.cfse:cfse_cnn",
    "sel-cnn": "ffdist.models.sel:sel_cnn",
    "vgg8": "ffdist.models.vgg:vgg8",
    "vgg11": "ffdist.models.vgg:vgg11",
    "resnet18": "ffdist.models.resnet:resnet18",
    "mobilenet-v3-small": "ffdist.models.mobilenet:mobilenet_v3_small",
    "vit": "ffdist.models.vit:vit",
    "speednet": "ffdist.models.speednet:speednet",
}
OBJECTIVE_PLACES = {
    "hinton": "ffdist.objectives.hinton:Hinton",
    "hinton-unsupervised": "ffdist.objectives.hinton_unsupervised:HintonUnsupervised",
    "sel-fourier": "ffdist.objectives.sel:SELFourier",
    "sel-morphological": "ffdist.objectives.sel:SELMorphological",
    "cwc": "ffdist.objectives.cwc:CwC",
    "cwc-mod": "ffdist.objectives.cwc:CwCMod",
    "sff": "ffdist.objectives.sff:SFF",
    "asge": "ffdist.objectives.asge:ASGE",
    "predsim": "ffdist.objectives.predsim:PredSim",
    "mono-forward": "ffdist.objectives.mono_forward:MonoForward",
    "deeperforward": "ffdist.objectives.deeperforward:DeeperForward",
    "local-ce": "ffdist.objectives.local_ce:LocalCE",
    "dgl": "ffdist.objectives.dgl:DGL",
    "auglocal": "ffdist.objectives.auglocal:AugLocal",
    "infopro": "ffdist.objectives.infopro:InfoPro",
    "symba": "ffdist.objectives.symba:SymBa",
    "scff": "ffdist.objectives.scff:SCFF",
    "cafo": "ffdist.objectives.cafo:CaFo",
}
TRANSPORT_PLACES = {
    "shared-memory": "ffdist.transport.shared_memory:TRANSPORT",
    "gloo": "ffdist.transport.process_group:GLOO",
    "nccl": "ffdist.transport.process_group:NCCL",
    "xccl": "ffdist.transport.process_group:XCCL",
    "object-store": "ffdist.transport.object_store:TRANSPORT",
}
TRANSPORTS_OF_RAY = ("object-store",)
"""Those that need Ray, and no port but Ray's own."""
TRANSFORM_PLACES = {
    "resize": "ffdist.data.transforms.sizes:Resize",
    "center-crop": "ffdist.data.transforms.sizes:CenterCrop",
    "random-crop": "ffdist.data.transforms.sizes:RandomCrop",
    "resized-crop": "ffdist.data.transforms.sizes:ResizedCrop",
    "crop": "ffdist.data.transforms.usual:Crop",
    "shift": "ffdist.data.transforms.usual:Shift",
    "flip": "ffdist.data.transforms.usual:Flip",
    "vertical-flip": "ffdist.data.transforms.usual:VerticalFlip",
    "alternate": "ffdist.data.transforms.usual:Alternate",
    "cutout": "ffdist.data.transforms.usual:Cutout",
    "randaugment": "ffdist.data.transforms.auto:RandAugment",
    "trivial-augment": "ffdist.data.transforms.auto:TrivialAugment",
    "color-jitter": "ffdist.data.transforms.colour:ColorJitter",
    "grayscale": "ffdist.data.transforms.colour:Grayscale",
    "erasing": "ffdist.data.transforms.erasing:Erasing",
    "mixup": "ffdist.data.transforms.mixing:Mixup",
    "cutmix": "ffdist.data.transforms.mixing:Cutmix",
}
TORCHVISION = "torchvision.transforms.v2"
"""Whose classes are transforms as they are."""
TRANSFORM_ALIASES = {
    "random-resized-crop": "resized-crop",
    "rrc": "resized-crop",
    "hflip": "flip",
    "horizontal-flip": "flip",
    "random-horizontal-flip": "flip",
    "mirror": "flip",
    "vflip": "vertical-flip",
    "random-vertical-flip": "vertical-flip",
    "translate": "shift",
    "rand-augment": "randaugment",
    "rand": "randaugment",
    "ra": "randaugment",
    "trivial-augment-wide": "trivial-augment",
    "trivialaugment": "trivial-augment",
    "ta": "trivial-augment",
    "jitter": "color-jitter",
    "colour-jitter": "color-jitter",
    "color": "color-jitter",
    "colour": "color-jitter",
    "brightness": "color-jitter(brightness=0.4,contrast=0,saturation=0)",
    "contrast": "color-jitter(brightness=0,contrast=0.4,saturation=0)",
    "saturation": "color-jitter(brightness=0,contrast=0,saturation=0.4)",
    "hue": "color-jitter(brightness=0,contrast=0,saturation=0,hue=0.1)",
    "grey": "grayscale",
    "gray": "grayscale",
    "greyscale": "grayscale",
    "random-erasing": "erasing",
    "erase": "erasing",
    "random-erase": "erasing",
    "mix-up": "mixup",
    "cut-mix": "cutmix",
    "pad": "crop(padding=4)",
    "rotate": f"{TORCHVISION}:RandomRotation(degrees=15)",
    "rotation": f"{TORCHVISION}:RandomRotation(degrees=15)",
    "affine": f"{TORCHVISION}:RandomAffine(degrees=15,translate=0.1,0.1)",
    "perspective": f"{TORCHVISION}:RandomPerspective",
    "elastic": f"{TORCHVISION}:ElasticTransform",
    "blur": f"{TORCHVISION}:GaussianBlur(kernel_size=3)",
    "gaussian-blur": f"{TORCHVISION}:GaussianBlur(kernel_size=3)",
    "solarize": f"{TORCHVISION}:RandomSolarize(threshold=128)",
    "posterize": f"{TORCHVISION}:RandomPosterize(bits=4)",
    "equalize": f"{TORCHVISION}:RandomEqualize",
    "invert": f"{TORCHVISION}:RandomInvert",
    "autocontrast": f"{TORCHVISION}:RandomAutocontrast",
    "sharpness": f"{TORCHVISION}:RandomAdjustSharpness(sharpness_factor=2)",
    "autoaugment": f"{TORCHVISION}:AutoAugment",
    "auto-augment": f"{TORCHVISION}:AutoAugment",
    "augmix": f"{TORCHVISION}:AugMix",
}
"""What other libraries call some transforms, and where those are that have no name of ours."""
FAMILIES: dict[str, tuple[str, ...]] = {
    "ddp": (
        "ddp",
        "ddp-static",
        "ddp-views",
        "ddp-bucket-5",
        "ddp-bucket-25",
        "ddp-bucket-100",
        "ddp-bf16",
        "ddp-bf16-bucket-100",
    ),
    "fsdp": ("fsdp-32", "fsdp-bf16", "fsdp-bf16-gathered"),
    "pipeline": (
        "gpipe-4",
        "gpipe-8",
        "1f1b-4",
        "1f1b-8",
        "1f1b-4-once",
        "1f1b-8-once",
        "interleaved-8",
        "zero-bubble-8",
    ),
    "1f1b": ("1f1b-4", "1f1b-8"),
    "gpipe": ("gpipe-4", "gpipe-8"),
}
"""Families of baselines: a family's name stands for the fastest of these."""
LONE_BASELINES = (
    "bp",
    "bp-threads",
    "bp-checkpoint",
    "ddp-powersgd",
    "ddp-accumulate",
    "ddp-accumulate-checkpoint",
    "ddp-checkpoint",
)
"""Baselines of no family."""


def baseline_names() -> list[str]:
    """All that --against may say, each once: families, then their members, then the others."""
    members = [name for family in FAMILIES.values() for name in family]
    return list(dict.fromkeys([*FAMILIES, *members, *LONE_BASELINES]))


DATA_SETS = (
    "mnist",
    "fashion-mnist",
    "kmnist",
    *(f"emnist-{split}" for split in ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")),
    "cifar10",
    "cifar100",
    "svhn",
    "stl10",
    "imagenette",
)
"""What is fetched and prepared by its name."""
TRACKER_PLACES = {
    "tensorboard": "ffdist.trackers.tensorboard:TensorBoard",
    "wandb": "ffdist.trackers.wandb:WandB",
    "mlflow": "ffdist.trackers.mlflow:MLflow",
    "comet": "ffdist.trackers.comet:Comet",
}
TRACKERS: LazyNames[Any] = LazyNames(TRACKER_PLACES)
"""Classes by name, made with a run's folder and its settings by name."""
