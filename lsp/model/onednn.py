"""A model goes in; on an x86 CPU its linear layers compute by oneDNN, forward and backward.

torch sends fp32 matrix products on a CPU to the BLAS that it was built with; its wheels have MKL,
which runs at less than half of oneDNN's speed on AMD processors (docs/performance.md). oneDNN is in
the same wheels, behind an operator that torch.compile uses and that has no public name: where it is
missing or does not agree with torch, layers stay as they are. Results differ from torch's by
rounding alone.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lsp.model.lora import lora_layers, merged_weight
from lsp.settings.limits import SMALLEST_ONEDNN


def product(rows_MK: Tensor, weight_NK: Tensor) -> Tensor:
    """rows @ weight.T, [M, N]; either may be a transposed view, and the weight one of ``pack``."""
    return torch.ops.mkldnn._linear_pointwise(rows_MK, weight_NK, None, "none", [], "")


def pack(weight_NK: Tensor, rows: int) -> Tensor:
    """A copy of a weight in the layout that oneDNN wants for so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_NK, rows)


def available() -> bool:
    """Whether this torch has the operator on this processor and it agrees with torch's product."""
    try:
        rows, weight = torch.linspace(-1, 1, 3 * 8).view(3, 8), torch.linspace(1, 2, 40).view(5, 8)
        products = (product(rows, weight), product(rows, pack(weight, 3)), product(weight, rows).T)
    except (AttributeError, RuntimeError):
        return False
    agree = all(torch.allclose(result, rows @ weight.T) for result in products)
    return platform.machine() in ("x86_64", "AMD64") and agree


class _Product(torch.autograd.Function):
    """rows @ weight.T with all three products of training in oneDNN."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return product(rows, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        for_rows = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        for_weight = product(gradient.t(), rows.t()) if ctx.needs_input_grad[1] else None
        return for_rows, for_weight


class OneDnnLinear(nn.Linear):
    """``nn.Linear`` by oneDNN's product. ``packed``: its weight inside ``decoding_weights``."""

    packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, self.in_features)
        if self.packed is None:
            out = _Product.apply(rows, self.weight)
        else:
            out = product(rows, self.packed)
        if self.bias is not None:
            out = out + self.bias
        return out.view(*input.shape[:-1], self.out_features)


def use_onednn(model: nn.Module, smallest: int = SMALLEST_ONEDNN) -> list[nn.Module]:
    """Turn the model's linear layers into ``OneDnnLinear`` where that pays and is possible: fp32 on
    an x86 CPU, ``smallest`` weights or more. Parameters, names and what is saved stay the same.
    Returns the layers that were turned."""
    if not available():
        return []
    turned = []
    for module in model.modules():
        fits = type(module) is nn.Linear and module.weight.numel() >= smallest
        if fits and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = OneDnnLinear
            turned.append(module)
    return turned


@contextmanager
def passes_of_rows(model: nn.Module, rows: int) -> Iterator[None]:
    """For passes of thousands of rows: small layers compute by oneDNN too, whose call costs nothing
    beside them, all with packed weights. The model is as it was at the end."""
    turned = use_onednn(model, smallest=1)
    try:
        with decoding_weights(model, rows):
            yield
    finally:
        for module in turned:
            module.__class__ = nn.Linear


@contextmanager
def decoding_weights(model: nn.Module, rows: int) -> Iterator[None]:
    """fp32 weights as many products of ``rows`` rows want them: adapters merged into them, and
    packed where oneDNN computes. They are copies, freed at the end; the model must not change
    meanwhile. In bfloat16 adapters stay apart, since rounding would change what is merged there."""
    adapters = {id(layer.base_layer): layer for layer in lora_layers(model).values()}
    packed = [module for module in model.modules() if isinstance(module, OneDnnLinear)]
    adapted = [a for a in adapters.values() if a.base_layer.weight.dtype == torch.float32]
    apart = {layer: layer.base_layer.weight for layer in adapted}
    try:
        for layer in packed:
            adapter = adapters.get(id(layer))
            layer.packed = pack(merged_weight(adapter) if adapter else layer.weight.detach(), rows)
        for adapter in adapted:
            if not isinstance(adapter.base_layer, OneDnnLinear):
                adapter.base_layer.weight = nn.Parameter(merged_weight(adapter), False)
            adapter.enable_adapters(False)
        yield
    finally:
        for adapter, weight in apart.items():
            adapter.base_layer.weight = weight
            adapter.enable_adapters(True)
        for layer in packed:
            layer.packed = None
