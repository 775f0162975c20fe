"""A folder of new weights goes in, a vLLM worker samples from them; its server is started with it.

    PYTHONPATH=<this folder> … --worker-extension-cls lsp_weights.NewWeights

It runs in the server's environment, which has vLLM and safetensors and not this project: it imports
nothing else of it. Called as ``POST /collective_rpc {"method": "take_weights", "args": [folder]}``.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


class NewWeights:
    """Mixed into vLLM's worker, in each of the server's processes."""

    model_runner: Any
    reload_weights: Any

    @torch.inference_mode()
    def take_weights(self, folder: str) -> dict[str, int]:
        """Sample from the weights of ``folder``/model.safetensors, by their names in a checkpoint;
        how many ``tensors`` they were. Raises where there are none."""
        with safe_open(Path(folder) / "model.safetensors", "pt") as file:
            names = list(file.keys())
            self.reload_weights(weights_iterator=((n, file.get_tensor(n)) for n in names))
        # Where it is one tensor with the embedding, vLLM 0.32 on a CPU goes on with the packed copy
        # of the vocabulary head that it made as it started.
        head = getattr(self.model_runner.get_model(), "lm_head", None)
        method = getattr(head, "quant_method", None)
        if method is not None:
            method.process_weights_after_loading(head)
        return {"tensors": len(names)}
