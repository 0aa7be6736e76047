"""Networks as chains of named blocks.

`MODELS` names the builders; each takes (input_shape, num_classes, **options) and returns a `Chain`.
"""

from __future__ import annotations

from ffdist.models.axes import Axes, OutputLayout
from ffdist.models.cfse import cfse_cnn
from ffdist.models.chain import Chain, Shape
from ffdist.models.cnn import cnn, cnnb
from ffdist.models.load import MODELS, load_model
from ffdist.models.mlp import mlp
from ffdist.models.mobilenet import mobilenet_v3_small
from ffdist.models.of_torchvision import torchvision_chain
from ffdist.models.pretrained import load_pretrained, with_weights
from ffdist.models.resnet import resnet18
from ffdist.models.sel import sel_cnn
from ffdist.models.speednet import speednet
from ffdist.models.vgg import vgg8, vgg11
from ffdist.models.vit import vit
from ffdist.models.weights import weights_file
from ffdist.renamed import renamed_names
from ffdist.seeds import derive_seed, seeded, wait_at_most

__all__ = [
    "MODELS",
    "Axes",
    "Chain",
    "OutputLayout",
    "Shape",
    "cfse_cnn",
    "cnn",
    "cnnb",
    "derive_seed",
    "load_model",
    "load_pretrained",
    "mlp",
    "mobilenet_v3_small",
    "resnet18",
    "seeded",
    "sel_cnn",
    "speednet",
    "torchvision_chain",
    "vgg8",
    "vgg11",
    "vit",
    "wait_at_most",
    "weights_file",
    "with_weights",
]

__getattr__ = renamed_names(__name__, Layout="OutputLayout")
