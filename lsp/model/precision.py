"""A bfloat16 model goes in; one with trained weights in fp32 comes out, which computes as before.

An update of less than 0.4 % of a bfloat16 weight would be rounded away, so what the optimizer
changes is fp32. In a training pass each decoder layer rounds its weights as it begins, and again
where it is computed anew in the backward pass; gradients gather in fp32. Inside ``rounded`` the
weights themselves are bfloat16, for a play, which reads them thousands of times. Log-probabilities
are those of a bfloat16 model to the bit. Autocast's are not: it keeps the residual stream in fp32,
so that a policy would differ from its reference before the first update.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def train_in_float32(model: nn.Module) -> torch.dtype | None:
    """Make what is trained fp32; the dtype that it had, where that is another."""
    others = [p for p in model.parameters() if p.requires_grad and p.dtype != torch.float32]
    dtypes = {parameter.dtype for parameter in others}
    for parameter in others:
        parameter.data = parameter.data.float()
    return dtypes.pop() if dtypes else None


def compute_in(dtype: torch.dtype, root: nn.Module, layers: Sequence[nn.Module]) -> None:
    """From now on ``root`` and its ``layers`` compute with trained weights rounded to ``dtype``."""
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    for module in (*layers, root):
        own = _Own(module)
        names = [
            name
            for name, parameter in own.named_parameters()
            if parameter.requires_grad and (module is not root or parameter not in inside)
        ]
        module.forward = partial(_computed, own, names, dtype)


@contextmanager
def rounded(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """The trained weights are of ``dtype`` inside (None: they stay), and fp32 again afterwards."""
    trained = [p for p in model.parameters() if p.requires_grad and dtype is not None]
    exact = [parameter.data for parameter in trained]
    try:
        for parameter in trained:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, data in zip(trained, exact, strict=True):
            parameter.data = data


class _Own(nn.Module):
    """A module by the forward pass that it had until now."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.run = module.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


def _computed(own: _Own, names: Sequence[str], dtype: torch.dtype, *args: Any, **kwargs: Any):
    weights = dict(own.named_parameters())
    exact = {name: weights[name] for name in names if weights[name].dtype != dtype}
    if not exact:
        return own(*args, **kwargs)
    inputs: dict[str, Tensor] = {name: weight.to(dtype) for name, weight in exact.items()}
    return functional_call(own, inputs, args, kwargs)
