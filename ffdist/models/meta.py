"""Modules built on torch's meta device: with shapes, and without memory."""

from __future__ import annotations

import importlib

import torch

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)


def on_meta() -> torch.device:
    """The device "meta", for a `with` around code that may import what it needs, torchvision for one.

    torch 2.6 cannot import its compiler, as torchvision lets it, once the device is set; 2.13 can.
    """
    if OLD:
        importlib.import_module("torch._dynamo")
    return torch.device("meta")
