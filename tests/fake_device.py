"""A device that is not the CPU, on any machine, for commands run in this one process:
``python tests/fake_device.py '[["run.py", …], …]'``.

torch's PrivateUse1 is registered as a backend in Python. Its tensors keep their numbers in the
CPU's memory, so results are the CPU's; but an operation that is given tensors of both devices
fails, as does what reads them without bringing them over, as on a GPU. All that
``lsp.players.choose_device`` chooses is this device.
"""

import json
import runpy
import sys

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "elsewhere"
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


class Elsewhere(torch.Tensor):
    """A tensor of the device around a ``raw`` one of the CPU."""

    @staticmethod
    def __new__(cls, raw):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(),
            dtype=raw.dtype, device=f"{DEVICE}:0",
        )  # fmt: skip
        tensor.raw = raw
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, *args, **(kwargs or {}))

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copy = Elsewhere(self.raw.detach().clone())
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if is_parameter else copy
        return memo[id(self)]

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {DEVICE} tensor to numpy: use Tensor.cpu()")

    # torch refuses these for every subclass; on a GPU they work.
    def tolist(self):
        return self.raw.tolist()

    def storage(self):
        return self.raw.storage()

    def untyped_storage(self):
        return self.raw.untyped_storage()


def compute(operation, *args, **kwargs):
    """Do it with the raw tensors; raises RuntimeError for tensors of both devices. A number of the
    CPU may stand in for a scalar, and the CPU's indices may index."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    here = [t for t in tensors if isinstance(t, Elsewhere)]
    from_cpu = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim()]
    if operation in INDEXED and isinstance(args[0], Elsewhere):
        indices = [id(t) for t in args[1] if t is not None]
        from_cpu = [t for t in from_cpu if id(t) not in indices]
    if here and from_cpu and operation not in MOVES:
        raise RuntimeError(f"{operation}: expected all tensors to be on the same device")
    device = kwargs.get("device")
    if device is not None:
        stays = torch.device(device).type == DEVICE
        kwargs["device"] = "cpu"
    else:
        stays = isinstance(args[0], Elsewhere) if operation in MOVES else bool(here)
    args, kwargs = tree_map(
        lambda value: value.raw if isinstance(value, Elsewhere) else value, (args, kwargs)
    )
    with torch.no_grad():
        results = operation(*args, **kwargs)
    inputs = {id(t.raw): t for t in here}

    def placed(value):
        if not isinstance(value, torch.Tensor) or not stays:
            return value
        return inputs[id(value)] if id(value) in inputs else Elsewhere(value)

    return tree_map(placed, results)


def register() -> list[torch.library.Library]:
    """The libraries hold the registration for as long as they live."""
    backend_registration._setup_privateuseone_for_python_backend(DEVICE, Backend())
    torch.__future__.set_swap_module_params_on_conversion(True)
    everything, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(compute, dispatch_key="PrivateUse1")
    for operation in (*MOVES, aten.empty.memory_format, aten.empty_strided.default):
        own.impl(
            operation,
            lambda *args, operation=operation, **kwargs: compute(operation, *args, **kwargs),
            "PrivateUse1",
        )
    return [everything, own]


if __name__ == "__main__":
    libraries = register()
    sys.path[:] = [".", *sys.path[1:]]  # the repository's packages, not the tests'

    from lsp import players

    players.choose_device = lambda *arguments: torch.device(DEVICE)
    for command, *arguments in json.loads(sys.argv[1]):
        sys.argv = [command, *arguments]
        run = runpy.run_path if command.endswith(".py") else runpy.run_module
        run(command, run_name="__main__")
