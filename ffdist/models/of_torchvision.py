"""torchvision's classifiers as chains."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ffdist.errors import NetworkError
from ffdist.models.chain import Chain
from ffdist.models.joins import joined
from ffdist.models.parts import named_path
from ffdist.models.sound import check_row
from ffdist.renamed import renamed_arguments


@renamed_arguments(cut="blocks_per_block")
def torchvision_chain(
    module: nn.Module, *, input_shape: Sequence[int], num_classes: int, blocks_per_block: Sequence[int] | None = None
) -> Chain:
    """A classifier of torchvision as a chain, with the weights it has and without its own classification head.

    The split: a ResNet by its stem and its groups layer1 ... layer4; a model with `features` in a row (VGG, AlexNet,
    MobileNet, EfficientNet, DenseNet, ConvNeXt, ...) by their entries, where norms, activations and pools join the
    entry before them. `blocks_per_block` joins these blocks further, as `Chain.regroup` does.

    Raises NetworkError for a model of neither form.
    """
    from torchvision.models import ResNet  # two seconds, which other networks need not pay

    features = getattr(module, "features", None)
    if isinstance(module, ResNet):
        entries = [(name, part) for name, part in module.named_children() if name not in ("avgpool", "fc")]
    elif isinstance(features, nn.Sequential):
        entries = [(f"features.{name}", part) for name, part in features.named_children()]
    else:
        raise NetworkError(
            "cannot tell where to split this model",
            expected="a torchvision ResNet, or a model with `features` in an nn.Sequential",
            got=type(module).__name__,
            remedy="an nn.Sequential of its layers, without the classifier: nn.Sequential(*list(net.children())[:-1]) "
            "where its forward calls them in turn, as those of MNASNet and RegNet do",
        )
    check_row(module, None)
    blocks = nn.Sequential()
    for count in joined(entries):
        group, entries = entries[:count], entries[count:]
        blocks.add_module(group[0][0].replace(".", "-"), named_path(*group))
    each = [1] * len(blocks) if blocks_per_block is None else blocks_per_block
    return Chain.from_sequential(blocks, input_shape=input_shape, num_classes=num_classes, layers_per_block=each)
