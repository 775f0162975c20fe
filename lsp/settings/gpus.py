"""The GPUs that a plan can be made for, as their makers' data sheets state them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """``memory_gb``: GB of 2^30 bytes; ``tflops``: dense peak by ``model.dtype``, 1e12 a second;
    ``bandwidth``: of its memory, 1e12 bytes a second."""

    label: str
    memory_gb: float
    tflops: dict[str, float]
    bandwidth: float
    source: str


ADA = "NVIDIA Ada GPU Architecture whitepaper 2.01, appendix A"
GPUS = {
    "rtx4080": Gpu("RTX 4080 16GB", 16, {"bfloat16": 97.5, "float32": 48.7}, 0.717, ADA),
    "rtx4090": Gpu("RTX 4090", 24, {"bfloat16": 165.2, "float32": 82.6}, 1.008, ADA),
    "a100": Gpu(
        "A100 80GB SXM", 80, {"bfloat16": 312, "float32": 19.5}, 2.039, "NVIDIA A100 data sheet"
    ),
    "h100": Gpu(
        "H100 SXM", 80, {"bfloat16": 989.4, "float32": 66.9}, 3.35, "NVIDIA H100 data sheet"
    ),
    "h200": Gpu(
        "H200 SXM", 141, {"bfloat16": 989.4, "float32": 66.9}, 4.8, "NVIDIA H200 data sheet"
    ),
}
"""Name in ``hardware.gpu`` -> GPU. fp32 by plain cores: torch takes TF32 on request."""
