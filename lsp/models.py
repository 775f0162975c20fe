"""The policy and its frozen reference, loaded by one path for every world."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lsp.config import local_model_folder
from lsp.onednn import use_onednn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    source: str | Path, dtype: str, device: torch.device, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in eval mode and its tokenizer; no code from the files is run.

    ``source``: ``pocket``, a folder, or a Hub id; ``revision`` is of the latter. Raises ValueError
    with the way out where it is missing, damaged, or not a model whose log-probabilities this
    project computes right.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = local_model_folder(str(source))
    name = str(folder or source)
    if folder is not None and not (folder / "config.json").is_file():
        raise ValueError(
            f"no model in {folder}: it has no config.json; give a folder written by"
            " save_pretrained, a Hub id, or a run"
        )
    revision = None if folder else revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    except Exception as error:
        raise ValueError(
            f"the model {name!r} cannot be loaded: {type(error).__name__}: {error}\n"
            "Check the name, your access to it (gated models need a Hub token), and that its"
            " files are whole; a damaged checkpoint can be replaced by an older one with"
            " init=checkpoint init.run=<folder>"
        ) from error
    embedding = model.get_input_embeddings()
    # A padding index drops the gradient of that id's embedding, and a rollout can sample it.
    embedding.padding_idx = None
    model = model.to(device).eval()
    use_onednn(model)
    check_head(model)
    return model, tokenizer


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Log-probabilities are computed as head(hidden); refuse a model that does more than that
    (soft-capped or scaled logits), rather than train on wrong ones."""
    ids = torch.arange(4, device=model.device).unsqueeze(0)
    expected = model(input_ids=ids, use_cache=False).logits.float()
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    difference = (model.get_output_embeddings()(hidden).float() - expected).abs().max().item()
    if difference > 1e-3:
        raise ValueError(
            f"{type(model).__name__} changes its logits after the vocabulary head (difference"
            f" {difference:.2g}); this model is not supported"
        )


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The reference: the init as it was, never trained."""
    reference = copy.deepcopy(model).eval()
    return reference.requires_grad_(False)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every id that ends a turn: the tokenizer's, and those of the generation config."""
    ids = {tokenizer.eos_token_id}
    configured = model.generation_config.eos_token_id
    ids |= set(configured) if isinstance(configured, list) else {configured}
    return ids - {None}
