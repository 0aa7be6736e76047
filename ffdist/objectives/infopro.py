"""InfoPro: modules that learn the classes, and keep what is known of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError, NetworkError, setting
from ffdist.objectives.auxiliary import FlatPixels, PoolTo, convolutions
from ffdist.objectives.base import BlockSpec, Local
from ffdist.objectives.competitive import Competitive


@dataclass(frozen=True)
class InfoPro(Competitive):
    """InfoPro (Wang et al., ICLR 2021, arXiv 2101.10832): a module learns the classes, and keeps the picture.

    loss = l1 * BCE(decoder(y), picture) + l2 * CE(aux(y)). decoder [code]: enlarged to the picture's size; 3x3
    convolution to 12 channels, batch norm, ReLU; 3x3 convolution to the picture's. aux [code]: 3x3 convolution of
    stride 2, batch norm, ReLU; mean over space; linear 128, ReLU; linear. (l1, l2) go evenly from `first` to `late`
    over all modules but the last, which has the aux alone, and l1 = 0, l2 = 1. The output goes on as it is.

    The picture travels with the activations, a byte a number. A gradient crosses three layers of aux, or two of the
    decoder, and those of the module, and nothing before: local learning, but not of single layers.

    Our own choices: pictures have mean 0 and variance 1 here, so the decoder's logits are compared with them by
    BCE(., sigmoid(picture)), which is least where both are equal; a module with l2 = 0 gives no scores; the paper's
    contrastive form of the second term is left out.
    """

    first: tuple[float, float] = (5.0, 0.5)
    """l1 and l2 of the first module. The paper's for ResNet-32: 6,0 with four modules, 5,0 with eight."""
    late: tuple[float, float] = (0.5, 1.0)
    """l1 and l2 of the last but one. The paper's: 1,2 with four modules, 0,2 with eight."""
    width: int = 12
    """Channels within the decoder."""
    hidden: int = 128
    """Width of the auxiliary classifier's linear layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = (*self.first, *self.late)
        if min(weights) < 0 or not sum(self.first) or not sum(self.late) or self.width < 1 or self.hidden < 1:
            raise ConfigError(
                "a module has nothing to learn, or a weight is negative",
                where="objective infopro",
                expected="weights >= 0 that are not both 0, width >= 1, hidden >= 1",
                got=f"first {self.first}, late {self.late}, width {self.width}, hidden {self.hidden}",
            )

    def weights(self, spec: BlockSpec) -> tuple[float, float]:
        """l1 and l2 of a module."""
        if spec.is_last:
            return 0.0, 1.0
        done = spec.index / max(1, spec.num_blocks - 2)
        l1, l2 = (a + (b - a) * done for a, b in zip(self.first, self.late, strict=True))
        return l1, l2

    def companion(self, x: Tensor) -> Tensor | None:
        """The picture, a byte a number: 255 sigmoid(x), uint8 of x's shape."""
        return (255 * torch.sigmoid(x)).round().to(torch.uint8)

    def head(self, spec: BlockSpec) -> nn.Module:
        if len(spec.output_shape) != 3 or len(spec.sample_shape) != 3:
            raise NetworkError(
                "infopro makes pictures of maps",
                where=spec,
                expected="samples and maps [C, H, W]",
                got=f"samples {list(spec.sample_shape)}",
                remedy=f"another rule for vectors and tokens: {setting('rule.objective', 'dgl')}",
            )
        return InfoProHead(spec, self)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, InfoProHead)
        scores = None if head.aux is None else head.aux(out).float()
        loss = None if scores is None else self.compete(scores, labels, learning=head.training)
        return Local(loss, scores, out.detach())

    def local_with_companion(self, head: nn.Module, out: Tensor, labels: Tensor, companion: Tensor) -> Local:
        assert isinstance(head, InfoProHead)
        local = self.local(head, out, labels)
        loss = None if local.loss is None else head.l2 * local.loss
        if head.decoder is not None:
            size = companion.shape[2:]
            logits = head.decoder(F.interpolate(out, size=size, mode="bilinear", align_corners=True)).float()
            kept = head.l1 * F.binary_cross_entropy_with_logits(logits, companion.float() / 255)
            loss = kept if loss is None else loss + kept
        return local._replace(loss=loss)


class InfoProHead(nn.Module):
    """aux: the classifier, maps [N, C, H, W] -> scores [N, K], None where l2 is 0; decoder: a map enlarged to the
    picture's size -> its logits, [N, C, H, W], None where l1 is 0."""

    def __init__(self, spec: BlockSpec, rule: InfoPro) -> None:
        super().__init__()
        self.l1, self.l2 = rule.weights(spec)
        channels = spec.output_shape[0]
        conv = (nn.Conv2d(channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        readout = (nn.Linear(channels, rule.hidden), nn.ReLU(), nn.Linear(rule.hidden, spec.num_classes))
        self.aux = nn.Sequential(*conv, PoolTo(1), FlatPixels(), *readout) if self.l2 else None
        inner = convolutions([channels, rule.width], kernel=3)
        outer = nn.Conv2d(rule.width, spec.sample_shape[0], 3, padding=1)
        self.decoder = nn.Sequential(*inner, outer) if self.l1 else None
