"""A model's folder or Hub id goes in; the policy's model and its frozen copy come out."""

import copy
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsp.batch import pad
from lsp.model.chat import ChatFormat
from lsp.model.loading import load_pretrained
from lsp.model.logprobs import completion_scores, log_distribution
from lsp.model.onednn import use_onednn
from lsp.model.out_of_memory import is_out_of_memory
from lsp.model.windows import narrowed
from lsp.types import TrainingRow


def load_model(
    source: str | Path,
    dtype: str,
    device: torch.device,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in eval mode and its tokenizer. Raises ValueError with the way out
    where it is missing, damaged, or not a model whose log-probabilities this project computes
    right, and where it would run code without ``trust_remote_code``. See ``load_pretrained``."""
    model, tokenizer = load_pretrained(
        "CausalLM", str(source), dtype, revision, trust_remote_code, attn_implementation="sdpa"
    )
    # A padding index drops the gradient of that id's embedding, and a rollout can sample it.
    model.get_input_embeddings().padding_idx = None
    model = model.to(device).eval()
    use_onednn(model)
    check_paths(model)
    return model, tokenizer


@torch.no_grad()
def check_paths(model: PreTrainedModel) -> None:
    """Compare the log-probabilities of lsp/model/logprobs.py with a plain forward pass, sliding
    windows narrowed until they act. Raises ValueError for a model that computes something else:
    logits changed after the head, positions, masks or caches of another kind."""
    texts = [((1, 2, 3, 2, 1), (3, 1, 2)), ((1, 2, 3, 2, 1), (2,)), ((3, 1), (1, 2))]
    rows = [TrainingRow("solver", prompt, ids, (), 0.0, 0.0, 1) for prompt, ids in texts]
    with narrowed(model, 3):
        _compare_paths(model, rows)


def _compare_paths(model: PreTrainedModel, rows: list[TrainingRow]) -> None:
    try:
        logprobs = completion_scores(model, pad(rows).to(model.device), 1.0).logprobs_C
    except (IndexError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"{type(model).__name__} keeps keys and values in an unknown way ({error}); this"
            " model is not supported"
        ) from error
    expected = []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.completion_ids], device=model.device)
        scores = log_distribution(model(input_ids=ids, use_cache=False).logits[0])
        places = torch.arange(len(row.prompt_ids) - 1, row.length - 1)
        expected.append(scores[places, ids[0, places + 1]])
    if not torch.isfinite(torch.cat(expected)).all():
        raise ValueError(
            f"the log-probabilities of this {type(model).__name__} are not finite, so its weights"
            " are damaged, or too large for its dtype; fetch them again, or choose another"
            " checkpoint or model.dtype=float32"
        )
    difference = (logprobs - torch.cat(expected)).abs().max().item()
    # bfloat16 rounds logits to 8 bits, and the two passes round apart.
    if not difference <= (1e-3 if model.dtype == torch.float32 else 0.2):
        raise ValueError(
            f"{type(model).__name__} has other log-probabilities here than in its own forward pass"
            f" (difference {difference:.2g}): it may change its logits after the vocabulary head,"
            " or place and mask tokens in a way of its own; this model is not supported"
        )


def frozen_copy(model: PreTrainedModel, shared: bool = False) -> PreTrainedModel:
    """The reference: the init as it was, never trained. ``shared``: its tensors are the model's."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, tensors if shared else None).eval().requires_grad_(False)


def end_token_ids(model: PreTrainedModel, chat: ChatFormat) -> frozenset[int]:
    """Every id that ends a turn: the tokenizer's, the chat template's, and those of the generation
    config."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return chat.turn_end_ids | (frozenset(several) - {None})


def same_weights(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    if one is other:
        return True
    # No state_dict(): it would put a sharded model's gathered weights back into parts.
    ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    alike = ours.keys() == theirs.keys()
    return alike and all(bool((ours[name] == theirs[name]).all()) for name in ours)
