"""A model goes in; one with LoRA adapters, or with them merged, comes out (arXiv 2106.09685).

The reference shares the init's tensors, so there is no second copy of them, and it is exactly the
init, also where that is an adapter, which is merged once and for all: the run's own adapters begin
as zero, and KL with them. Adapters are peft's. Weights are never merged in place and taken apart
again, which rounding makes another model of; whatever needs merged weights gets new ones.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from lsp.model.loading import brief
from lsp.model.out_of_memory import is_out_of_memory
from lsp.settings.config import LoraSettings

ADAPTER = "default"
WAY_OUT = "give init.run=<a LoRA adapter of this model.name, as peft's save_pretrained writes>"


def add_lora(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Put adapters beside every linear layer but the vocabulary head; only they are trained. Raises
    ValueError for a model that peft cannot adapt."""
    from peft import LoraConfig

    plain = model.state_dict().keys()
    everywhere = {"target_modules": "all-linear", "lora_dropout": 0.0, "task_type": "CAUSAL_LM"}
    lora = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, **everywhere)
    model.add_adapter(lora, ADAPTER)
    if merged_state(model.eval()).keys() != plain:
        raise ValueError(
            f"{type(model).__name__} has layers whose adapters cannot be merged into plain weights"
            " (experts, for instance); train it with model.lora.rank=0"
        )


def adapter_weights(folder: str | Path) -> Path:
    """The file of an adapter's weights. Raises ValueError where there is none."""
    weights = Path(folder) / "adapter_model.safetensors"
    if not weights.is_file():
        raise ValueError(f"the adapter {folder} has no {weights.name}; {WAY_OUT}")
    return weights


@torch.no_grad()
def merge_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Merge the LoRA adapter in ``folder`` (as peft writes one) into a plain model: in fp32, then
    rounded to the model's own dtype, all of it trainable. Whole layers that it carries (embedding
    and head by peft's save_embedding_layers, modules_to_save) take the place of the model's, as in
    peft. Raises ValueError where it does not fit the model or cannot be merged."""
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    weights = adapter_weights(folder)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    both = ", whose embedding and vocabulary head are one tensor" if tied else ""
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    try:
        if not isinstance(PeftConfig.from_pretrained(str(folder)), LoraConfig):
            raise ValueError("it is no LoRA adapter, and others cannot be merged")
        adapted = PeftModel.from_pretrained(model, str(folder)).eval()
        saved = load_file(weights).keys()
        needed, known = (
            get_peft_model_state_dict(adapted, save_embedding_layers=copies).keys()
            for copies in (False, True)
        )
        unfit = (needed - saved) | (saved - known)
        if unfit:
            raise ValueError(f"{len(unfit)} of its weights are missing or have no layer")
        probe = torch.arange(4, device=model.device)[None]
        expected = adapted(input_ids=probe).logits
        merged = adapted.merge_and_unload(safe_merge=True)
        difference = (merged(input_ids=probe).logits - expected).abs().max().item()
        scale = max(1.0, expected.abs().max().item())
        if merged is not model or dtypes.keys() != dict(model.named_parameters()).keys():
            raise ValueError(f"merging it changes the layers of the model{both}")
        if not difference <= 1e-3 * scale:
            raise ValueError(f"it computes something else once it is merged into the model{both}")
    except (ValueError, RuntimeError, TypeError, KeyError, OSError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"the adapter {folder} cannot be merged into a {type(model).__name__}: {brief(error)}\n"
            f"{WAY_OUT[0].upper()}{WAY_OUT[1:]}"
        ) from error
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    model.eval().requires_grad_(True)


def lora_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer with an adapter; empty for a model without adapters."""
    modules = model.named_modules()
    return {name: module for name, module in modules if hasattr(module, "get_delta_weight")}


@torch.no_grad()
def merged_weight(layer: nn.Module) -> Tensor:
    """W + (alpha / rank) B A, a new tensor."""
    weight = layer.base_layer.weight
    return (weight.float() + layer.get_delta_weight(ADAPTER).float()).to(weight.dtype)


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of the plain model that computes the same, under the plain model's names."""
    layers = lora_layers(model)
    state = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" not in name:
            layer, _, kind = name.rpartition(".base_layer.")
            merges = layer in layers and kind == "weight"
            plain = f"{layer}.{kind}" if layer else name
            state[plain] = merged_weight(layers[layer]) if merges else tensor
    return state
