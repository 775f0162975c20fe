"""accelerate shards over GPUs alone; here it is told that its processes do so on a CPU.

    import tests.fsdp_on_cpu                        # before a Learner is made
    torchrun … tests/fsdp_on_cpu.py method=lsp …    # what run.py does

For tests: FSDP2 itself computes on a CPU by gloo, and accelerate's own code wraps the layers.
"""

import runpy
import sys
from pathlib import Path

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).parents[1]))
from lsp.model import device

device.SHARDED_ON = ("cuda", "cpu")
_begin = AcceleratorState.__init__


def _told(state, *args, fsdp_plugin=None, **kwargs):
    _begin(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin


AcceleratorState.__init__ = _told

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[1] / "run.py"), run_name="__main__")
