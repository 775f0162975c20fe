"""A model's config goes in; why this project cannot compute what that model computes comes out."""

from typing import Any

from transformers import PreTrainedConfig

from lsp.model.windows import FULL, SLIDING, layer_kinds


def unsupported(config: PreTrainedConfig) -> str:
    """Why a causal language model of this config is refused, by what its own code does with it
    (transformers 5); empty where nothing is known. ``check_paths`` compares numbers besides."""
    text = config.get_text_config()
    if text is not config:
        parts = ", ".join(sorted(config.sub_configs)) or type(text).__name__
        return f"it is made of several parts ({parts}), of which text alone needs one"
    caps = ("final_logit_softcapping", "attn_logit_softcapping")
    if capped := [name for name in caps if getattr(config, name, None) is not None]:
        return (
            f"it bends its logits by a tanh ({' and '.join(capped)} in its config), and here logits"
            " are what the vocabulary head gives"
        )
    if getattr(config, "use_bidirectional_attention", None):
        return "its tokens see those after them, so that it is no model of the next token"
    if others := sorted(layer_kinds(config) - {FULL, SLIDING}):
        return (
            f"it has layers of the kind {' and '.join(others)}, and prompts are shared here by keys"
            " and values that every later token, or every one in a sliding window, attends to"
        )
    return ""


def quantized_by(config_json: dict[str, Any]) -> str:
    """The method by which a checkpoint is quantized, from its config.json; empty for plain ones."""
    entry = config_json.get("quantization_config")
    return str(entry.get("quant_method", "an unnamed method")) if isinstance(entry, dict) else ""
