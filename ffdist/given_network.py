"""The network and the rule that a `Pipeline` is given, as objects or by names, made for its data and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from ffdist.arguments import as_objective
from ffdist.baselines.twin import BackpropRule, twin
from ffdist.data import Images
from ffdist.errors import NetworkError, setting
from ffdist.models import Chain, load_model, weights_file, with_weights
from ffdist.models.chain import children
from ffdist.models.dirac import with_dirac
from ffdist.models.joins import joined
from ffdist.objectives import Objective, load_objective
from ffdist.options import pairs
from ffdist.runtime.in_python import BACKPROP
from ffdist.runtime.job import Job
from ffdist.runtime.modules import joined_in_modules
from ffdist.runtime.planning import count_workers
from ffdist.runtime.run import smoothed
from ffdist.runtime.world import World
from ffdist.settings import NetworkSettings, Settings


@dataclass(frozen=True)
class GivenNetwork:
    """A network and a rule: objects, or the names by which settings find them."""

    network: Chain | nn.Sequential | str
    objective: Objective | str

    def job(self, images: Images, settings: Settings, world: World | None) -> Job:
        """The job of training it on these data; for "backprop", of its twin. world: None without torchrun."""
        if settings.network.modules:
            rule = BackpropRule() if self.objective == BACKPROP else self.rule(settings)
            chain = self.chain(images, settings.network)
            settings = joined_in_modules(settings, chain, rule, self._units(chain, settings.network))
        chain = self.chain(images, settings.network)
        if self.objective == BACKPROP:
            whole = twin(chain)
            whole.joined = chain.joined
            job = Job(whole, smoothed(BackpropRule(), settings), images, settings)
        else:
            job = Job(chain, self.rule(settings), images, settings)
        return replace(job, workers=count_workers(settings, job.names, world.size if world else None))

    def rule(self, settings: Settings) -> Objective:
        """The rule; with the options of its name, where it is given by one."""
        if not isinstance(self.objective, str):
            return smoothed(as_objective(self.objective), settings, start=True)
        return smoothed(self._named_rule(self.objective, settings), settings, start=True)

    def recorded_rule(self, settings: Settings) -> Objective | str:
        """The rule as the run's settings name it: label smoothing is a setting of its own."""
        if not isinstance(self.objective, str) or self.objective == BACKPROP:
            return self.objective
        return self._named_rule(self.objective, settings)

    @staticmethod
    def _named_rule(name: str, settings: Settings) -> Objective:
        return load_objective(name, pairs(settings.rule.objective_args, setting("rule.objective_args")))

    def chain(self, images: Images, network: NetworkSettings) -> Chain:
        """The network as a chain for these data. Raises NetworkError when it was made for other shapes or classes."""
        chain = self._chain(images, network)
        chain = with_dirac(chain) if network.dirac else chain
        if network.pretrained is None or (chain.recipe and chain.recipe.pretrained):
            return chain
        return with_weights(
            chain, weights_file(network.pretrained, chain.recipe.name if chain.recipe else network.model)
        )

    def _chain(self, images: Images, network: NetworkSettings) -> Chain:
        blocks = network.blocks or None
        if isinstance(self.network, str):
            options = pairs(network.model_args, setting("network.model_args"))
            made = load_model(self.network, images.shape, images.num_classes, options)
            return made if blocks is None else made.regroup(blocks)
        if isinstance(self.network, Chain):
            made, needed = (self.network.input_shape, self.network.num_classes), (images.shape, images.num_classes)
            if made != needed:
                raise NetworkError(
                    "the network was made for other data",
                    where=f"data set {images.name}",
                    expected="samples {}, {} classes".format(*made),
                    got="samples {}, {} classes".format(*needed),
                    remedy="make it of images.shape and images.num_classes",
                )
            return self.network if blocks is None else self.network.regroup(blocks)
        return Chain.from_sequential(
            self.network, input_shape=images.shape, num_classes=images.num_classes, layers_per_block=blocks
        )

    def _units(self, chain: Chain, network: NetworkSettings) -> Sequence[int]:
        """Count the units of `blocks` that make each block of the chain."""
        if network.blocks:
            return network.blocks
        return joined(children(self.network)) if isinstance(self.network, nn.Sequential) else (1,) * len(chain)
