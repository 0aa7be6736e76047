"""From torchvision: its weights into our blocks, and its classifiers as chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models import ResNet

from ffdist.errors import NetworkError
from ffdist.models.chain import Chain, Group
from ffdist.models.parts import named_path


def load_pretrained(block: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the weights of torchvision's model into a block of `resnet18`, `mobilenet-v3-small`, `vit` or
    `torchvision_chain`, whose tensors have the names that they have there.

    state: what `state_dict()` of the torchvision model gives; tensors of other blocks in it are left alone.

    Raises NetworkError naming the first tensor that `state` lacks or has in another shape; nothing is copied then.
    """
    own = dict(_named_tensors(block))
    for name, tensor in own.items():
        found = state.get(name)
        if found is None or found.shape != tensor.shape:
            raise NetworkError(
                f"the weights given do not fit: '{name}'",
                expected=list(tensor.shape),
                got="no such tensor" if found is None else list(found.shape),
                remedy="give the weights of this very architecture, and set its options as there "
                "(resnet18: stem=7, pictures of 3 channels; vit: patch, dim, depth, image size)",
            )
    for name, tensor in own.items():
        tensor.data.copy_(state[name])


def _named_tensors(block: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by their names in the model that the block was cut out of."""
    if isinstance(block, Group):
        return [pair for part in block for pair in _named_tensors(part)]
    return [*block.named_parameters(), *block.named_buffers()]


def torchvision_chain(
    module: nn.Module, *, input_shape: Sequence[int], num_classes: int, cut: Sequence[int] | None = None
) -> Chain:
    """A classifier of torchvision as a chain, with the weights it has and without its own classification head.

    The split: a ResNet by its stem and its groups layer1 ... layer4; a model with `features` in a row (VGG, AlexNet,
    MobileNet, EfficientNet, DenseNet, ConvNeXt, ...) by their entries, where norms, activations and pools join the
    entry before them. `cut` joins these blocks further, as `Chain.regroup` does.

    Raises NetworkError for a model of neither form.
    """
    features = getattr(module, "features", None)
    if isinstance(module, ResNet):
        entries = [(name, part) for name, part in module.named_children() if name not in ("avgpool", "fc")]
    elif isinstance(features, nn.Sequential):
        entries = [(f"features.{name}", part) for name, part in features.named_children()]
    else:
        raise NetworkError("cannot tell where to split this model", got=type(module).__name__,
                           expected="a torchvision ResNet, or a model with `features` in an nn.Sequential",
                           remedy="write its layers as an nn.Sequential and use Chain.from_sequential")  # fmt: skip
    groups: list[list[tuple[str, nn.Module]]] = []
    for entry in entries:
        if groups and _joins(entry[1]):
            groups[-1].append(entry)
        else:
            groups.append([entry])
    blocks = nn.Sequential()
    for group in groups:
        blocks.add_module(group[0][0].replace(".", "-"), named_path(*group))
    return Chain.from_sequential(blocks, input_shape=input_shape, num_classes=num_classes, cut=cut)


def _joins(part: nn.Module) -> bool:
    """Norms and what has no parameters (activations, pools, dropout)."""
    return isinstance(part, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)) or not list(part.parameters())
