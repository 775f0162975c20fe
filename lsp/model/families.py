"""A model's config goes in; why this project cannot compute what that model computes comes out."""

from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from lsp.model.windows import FULL, SLIDING, layer_kinds

CHANGES_OF_LOGITS = (
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "logit_scale",
    "logits_scaling",
)
"""Entries of a config (Gemma 2, Cohere, Granite) that are null or 1 where nothing is changed."""


def unsupported(config: PreTrainedConfig) -> str:
    """Why a causal language model of this config is refused, by what its own code does with it
    (transformers 5); empty where nothing is known. ``check_paths`` compares numbers besides."""
    text = config.get_text_config()
    if text is not config:
        parts = ", ".join(sorted(config.sub_configs)) or type(text).__name__
        return f"it is made of several parts ({parts}), of which text alone needs one"
    changes = {name: getattr(config, name, None) for name in CHANGES_OF_LOGITS}
    if changed := [f"{name}={value}" for name, value in changes.items() if value not in (None, 1)]:
        return (
            "it changes its logits after the vocabulary head or inside attention"
            f" ({', '.join(changed)} in its config), and here logits are what the head gives"
        )
    if getattr(config, "use_bidirectional_attention", None):
        return "its tokens see those after them, so that it is no model of the next token"
    if others := sorted(layer_kinds(config) - {FULL, SLIDING}):
        return (
            f"it has layers of the kind {' and '.join(others)}, and prompts are shared here by keys"
            " and values that every later token, or every one in a sliding window, attends to"
        )
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model is not None and not getattr(model, "_supports_sdpa", False):
        return (
            "transformers computes its layers without scaled_dot_product_attention, through which"
            " masks of shared prompts go here"
        )
    return ""


def quantized_by(config_json: dict[str, Any]) -> str:
    """The method by which a checkpoint is quantized, from its config.json; empty for plain ones."""
    entry = config_json.get("quantization_config")
    return str(entry.get("quant_method", "an unnamed method")) if isinstance(entry, dict) else ""
