"""A model in the CPU's memory goes in; it is on the device for as long as it computes there."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """``model`` computes on ``device`` inside, and is where it was afterwards, however that ends.
    For models that are not trained meanwhile: copies take the place of its tensors, which stay
    where they are, so nothing is copied back. What is on ``device`` already stays as it is."""
    tensors = [*model.parameters(), *model.buffers()]
    homes = [tensor.data for tensor in tensors]
    try:
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = copied_to(home, device)
        yield
    finally:
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = home


def copied_to(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor itself where it is on ``device``, else a copy there."""
    return tensor.to(device)
