"""A name in ``hardware.gpu`` goes in; what the GPU's data sheet says of it comes out. No torch."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """``memory_gb``: GB of 2^30 bytes; ``bfloat16`` and ``float32``: dense peak of ``model.dtype``,
    1e12 operations a second; ``bandwidth``: of its memory, 1e12 bytes a second. NaN: not known."""

    label: str
    memory_gb: float
    bfloat16: float
    float32: float
    bandwidth: float
    source: str

    def tflops(self, dtype: str) -> float:
        return {"bfloat16": self.bfloat16, "float32": self.float32}[dtype]


ADA = "NVIDIA Ada GPU Architecture whitepaper 2.01, appendix A"
GPUS = {
    "rtx4080": Gpu("RTX 4080 16GB", 16, 97.5, 48.7, 0.717, ADA),
    "rtx4090": Gpu("RTX 4090", 24, 165.2, 82.6, 1.008, ADA),
    "a100": Gpu("A100 80GB SXM", 80, 312, 19.5, 2.039, "NVIDIA A100 data sheet"),
    "h100": Gpu("H100 SXM", 80, 989.4, 66.9, 3.35, "NVIDIA H100 data sheet"),
    "h200": Gpu("H200 SXM", 141, 989.4, 66.9, 4.8, "NVIDIA H200 data sheet"),
}
"""Name in ``hardware.gpu`` -> GPU. fp32 by plain cores: torch takes TF32 on request."""
NO_GPU = Gpu("no GPU", math.nan, math.nan, math.nan, math.nan, "")
