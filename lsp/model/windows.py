"""A mask of what tokens may see goes in; masks with the decoder's sliding window come out.

A token at position p of a layer with window w sees positions p-w+1 to p (``sliding_window_overlay``
in transformers' masking_utils.py). transformers cuts windows out of masks that it makes itself and
takes a mask of four dimensions as it is, so whoever brings one cuts the window out. Decoders whose
config lists ``layer_types`` then take one mask for each kind of layer (Gemma 3, Qwen 2 and 3,
Olmo 3), others one for all layers (Mistral, Phi-3). Every layer keeps the keys and values of all
tokens, which is what lsp/plan counts; a window is only ever a mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

FULL, SLIDING = "full_attention", "sliding_attention"
Masks = Tensor | dict[str, Tensor]
"""[rows, 1, queries, keys], true where a query sees a key; one for all layers, or by their kind."""


def layer_kinds(config: PreTrainedConfig) -> set[str]:
    """Kinds of its layers by their attention; none where its config does not list them."""
    return set(getattr(config, "layer_types", None) or ())


def window_of(config: PreTrainedConfig) -> int | None:
    """Tokens that some layers see at most, the token itself with them; None: all layers see all."""
    kinds = layer_kinds(config)
    return getattr(config, "sliding_window", None) if not kinds or SLIDING in kinds else None


def windowed(
    config: PreTrainedConfig, sees: Tensor, query_positions: Tensor, key_positions: Tensor
) -> Masks:
    """What a decoder takes as ``attention_mask`` where every layer sees at most ``sees``, [rows, 1,
    queries, keys]. Positions, [rows or 1, queries] and [rows or 1, keys], count a row's tokens from
    anywhere. Where no token can be further off than the window the mask comes back as it was."""
    window = window_of(config)
    if window is None or sees.shape[-1] <= window:
        return sees
    near = key_positions[:, None, None, :] > query_positions[:, None, :, None] - window
    return {FULL: sees, SLIDING: sees & near} if layer_kinds(config) else sees & near


@contextmanager
def narrowed(model: PreTrainedModel, window: int) -> Iterator[None]:
    """Inside, a model's windows (if it has any) are of so many tokens, and act on short texts."""
    config = model.get_decoder().config
    before = window_of(config)
    if before is not None:
        config.sliding_window = window
    try:
        yield
    finally:
        if before is not None:
            config.sliding_window = before
