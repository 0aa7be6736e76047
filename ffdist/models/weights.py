"""State files to start from: read, found, or fetched by torchvision."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ffdist.errors import ConfigError, NetworkError, described, setting
from ffdist.options import path_of
from ffdist.regular import open_regular

IMAGENET = {"resnet18": "resnet18", "mobilenet-v3-small": "mobilenet_v3_small", "vit": "vit_b_16"}
"""The torchvision model whose ImageNet weights fit each network, given its options."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of what `torch.save(model.state_dict(), path)` wrote, by name.

    Raises ConfigError for a file that is not there, NetworkError for one that is corrupt or holds more than tensors:
    nothing but tensors is ever unpickled.
    """
    try:
        open_regular(path).close()  # of a pipe torch would wait for the end
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(
            "the weights to start from cannot be read",
            where=setting("network.pretrained", path),
            got=error.strerror or error,
            remedy=run_folder_remedy(path),
        ) from error
    except Exception as error:  # torch's restricted unpickler raises many types for foreign bytes
        raise _no_state_error(path, _reason(error)) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _no_state_error(path, f"a {type(state).__name__} of other things")
    return state


def run_folder_remedy(path: Path) -> str | None:
    """The remedy for a run's folder in place of a file: the command that exports its weights; None for other paths."""
    return f"ffdist export {path} --to FILE.safetensors, and name that" if (path / "config.toml").is_file() else None


def weights_file(source: str, model: str) -> Path:
    """The file that `--pretrained` names: its own, or with "imagenet" torchvision's for this network, fetched to torch
    hub's cache unless it is there.

    Raises ConfigError where torchvision has none for the network, or they can be neither found nor fetched.
    """
    if source != "imagenet":
        return path_of(source)
    if model not in IMAGENET:
        raise ConfigError(
            "there are no ImageNet weights for this network",
            where=setting("network.pretrained", "imagenet"),
            expected=" or ".join(setting("network.model", name) for name in IMAGENET),
            got=model,
            remedy=f"name a state file: {setting('network.pretrained', 'FILE')}",
        )
    from torchvision.models import get_model_weights  # two seconds, which files of weights need not pay

    weights = get_model_weights(IMAGENET[model])["DEFAULT"].value
    path = Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[1])
    if not path.exists():
        try:
            torch.hub.load_state_dict_from_url(weights.url, progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                "torchvision's ImageNet weights are not here and cannot be fetched",
                where=weights.url,
                expected=path,
                got=error,
                remedy=f"put the file there, or name one: {setting('network.pretrained', 'FILE')}",
            ) from error
    return path


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file  # networks are built without it

    return load_file(path)


def _reason(error: Exception) -> str:
    """The reason in torch's error, without its advice to unpickle the file all the same."""
    _, _, rest = str(error).partition("WeightsUnpickler error:")
    if rest.strip():
        return rest.strip().splitlines()[0]
    return "a tar, or zeros alone" if "legacy .tar" in str(error) else described(error)


def _no_state_error(path: Path, found: str) -> NetworkError:
    return NetworkError(
        "this is not a file of weights",
        where=setting("network.pretrained", path),
        got=found,
        expected="names and tensors: .safetensors, or torch.save(model.state_dict(), path)",
        remedy="save the model's state_dict alone",
    )
