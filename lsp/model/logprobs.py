"""A micro-batch goes in; log-probabilities, entropy and the loss of its completion tokens come out.

No [rows x tokens x V] tensor is ever made. Hidden states are gathered at the positions that predict
completion tokens; each prompt is computed once, and its completions attend to its keys and values
(exact: a prompt's states do not depend on what follows). The vocabulary head runs over a tile of
positions at a time, and in training the head's gradients are formed in the same pass: what a
token's log-probability weighs in the loss follows from that log-probability alone, so neither are
logits kept nor computed again.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from lsp.model.onednn import OneDnnLinear, product
from lsp.model.windows import windowed
from lsp.settings.limits import TILE_ELEMENTS
from lsp.types import MicroBatch

TokenLoss = Callable[[Tensor, slice], Tensor]
"""(log-probs of some completion tokens, which ones) -> their part of the loss, a scalar."""


class TokenScores(NamedTuple):
    """Per completion token, row-major: [C]. ``distribution_CV`` is the whole log-distribution,
    kept only on request (the exact KL of a small vocabulary)."""

    logprobs_C: Tensor
    entropy_C: Tensor
    distribution_CV: Tensor | None


class PromptStates(Cache):
    """Keeps the keys and values of K prompts by layer; gradients flow through them. A layer that is
    computed again in the backward pass changes nothing."""

    def __init__(self):
        super().__init__(layers=[])
        self.of_layer: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        self.of_layer.setdefault(layer_idx, (key_states, value_states))
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class SharedPrompts(Cache):
    """Shows the states of K prompts to B rows, as the beginning of each."""

    def __init__(self, prompts: PromptStates, owner_B: Tensor):
        super().__init__(layers=[])
        self.prompts = prompts
        self.owner_B = owner_B

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        pairs = zip(self.prompts.of_layer[layer_idx], (key_states, value_states), strict=True)
        return tuple(torch.cat([prompts[self.owner_B], rows], dim=2) for prompts, rows in pairs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prompts.of_layer[0][0].shape[2]


def checkpoint_layers(model: nn.Module) -> None:
    """Keep the inputs of each decoder layer for the backward pass and compute the rest again: less
    memory for one more forward pass. transformers' own switch leaves out the cache that prompts are
    shared by."""
    # In eval mode nothing in a layer is random, so no state of the generator is needed.
    options = {"use_reentrant": False, "preserve_rng_state": False}
    for layer in model.get_decoder().modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = partial(checkpoint, layer.forward, **options)


def completion_hidden(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Hidden states of the positions that predict completion tokens, [C, D], row-major."""
    decoder = model.get_decoder()
    shared = PromptStates()
    # Prompts are padded on the right: no token of theirs sees padding under a causal mask.
    hidden_KPD = decoder(
        input_ids=batch.prompt_ids_KP, past_key_values=shared, use_cache=True
    ).last_hidden_state
    length_B = batch.prompt_length_K[batch.owner_B]
    first_BD = hidden_KPD[batch.owner_B, length_B - 1]
    inputs_BT = batch.completion_ids_BT[:, :-1]  # the last token predicts nothing
    rows, width = inputs_BT.shape
    order = torch.arange(width, device=inputs_BT.device)
    columns = torch.arange(batch.prompt_ids_KP.shape[1], device=inputs_BT.device)
    sees_prompt = (columns < length_B[:, None])[:, None, None, :].expand(-1, 1, width, -1)
    causal = (order[:, None] >= order)[None, None].expand(rows, 1, -1, -1)
    # Padding goes no further than a row does: rotary factors may follow the largest position.
    position_BT = (length_B[:, None] + order) * batch.completion_mask_BT[:, :-1]
    key_positions = torch.cat([columns.expand(rows, -1), position_BT], dim=1)
    sees = torch.cat([sees_prompt, causal], dim=-1)
    hidden_BTD = decoder(
        input_ids=inputs_BT,
        attention_mask=windowed(decoder.config, sees, position_BT, key_positions),
        position_ids=position_BT,
        past_key_values=SharedPrompts(shared, batch.owner_B),
        use_cache=True,
    ).last_hidden_state
    return torch.cat([first_BD[:, None], hidden_BTD], dim=1)[batch.completion_mask_BT]


def scaled_and_total(
    logits: Tensor, temperature: float, overwrite: bool = False
) -> tuple[Tensor, Tensor]:
    """(logits / temperature, their logsumexp with the last dimension kept), fp32; a token's
    log-probability is the one less the other. Policy, reference and engine take it from here, so
    that equal logits have equal log-probabilities. torch's own log_softmax is 5e-6 too high on
    average and 2e-5 in some rows, on a CPU at 151,936 tokens (logits of deviation 3), this 1e-7 and
    1e-6. Differentiable. ``overwrite``: in the memory of the logits, else they stay."""
    scaled = logits.float()
    if temperature != 1:
        scaled = scaled.div_(temperature) if overwrite else scaled / temperature
    return scaled, scaled.logsumexp(dim=-1, keepdim=True)


def log_distribution(logits: Tensor, temperature: float = 1.0, overwrite: bool = False) -> Tensor:
    """log softmax(logits / temperature) over the last dimension, in fp32, by ``scaled_and_total``.
    ``overwrite``: in the memory of the logits, whose gradient nobody wants."""
    scaled, total = scaled_and_total(logits, temperature, overwrite)
    return scaled.sub_(total) if overwrite else scaled - total


def completion_scores(
    model: nn.Module, batch: MicroBatch, temperature: float, with_distribution: bool = False
) -> TokenScores:
    """``token_scores`` of a micro-batch's completion tokens; a loss that is a sum over tokens is
    cheaper by ``head_loss``."""
    hidden_CD, head = completion_hidden(model, batch), model.get_output_embeddings()
    return token_scores(hidden_CD, head, batch.target_C, temperature, with_distribution)


def token_scores(
    hidden_CD: Tensor,
    head: nn.Linear,
    target_C: Tensor,
    temperature: float,
    with_distribution: bool = False,
) -> TokenScores:
    """Scores under softmax(head(hidden) / temperature), in fp32. Log-probabilities are
    differentiable; entropy is a measurement without gradient."""

    def tile(part: slice) -> TokenScores:
        logits = head(hidden_CD[part])
        logprobs = log_distribution(logits, temperature, overwrite=not logits.requires_grad)
        with torch.no_grad():
            entropy = -torch.linalg.vecdot(logprobs.exp(), logprobs)
        return TokenScores(_chosen(logprobs, target_C[part]), entropy, logprobs)

    if with_distribution:
        return tile(slice(None))
    tiles = [tile(part)[:2] for part in _tiles(len(target_C), head)]
    logprobs, entropy = (torch.cat(column) for column in zip(*tiles, strict=True))
    return TokenScores(logprobs, entropy, None)


def head_loss(
    hidden_CD: Tensor, head: nn.Linear, target_C: Tensor, temperature: float, token_loss: TokenLoss
) -> tuple[Tensor, TokenScores]:
    """(loss, scores): ``token_loss`` of the scores' log-probabilities, summed over tiles.
    The loss is differentiable in the hidden states and the head's parameters, whose gradients are
    formed on the way forward, in fp32; the scores are not."""
    loss, logprobs, entropy = _HeadLoss.apply(
        hidden_CD, head.weight, head.bias, head, target_C, temperature, token_loss
    )
    return loss, TokenScores(logprobs, entropy, None)


class _HeadLoss(torch.autograd.Function):
    """With g = d loss / d log p(target) of a token, d loss / d logits = g (onehot - p) / T."""

    @staticmethod
    def forward(ctx, hidden_CD, weight, bias, head, target_C, temperature, token_loss):
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        for_hidden = torch.empty_like(hidden_CD) if wants_hidden else None
        for_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        for_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None
        total = hidden_CD.new_zeros((), dtype=torch.float32)
        chosen, entropies = [], []
        for part in _tiles(len(target_C), head):
            hidden, target = hidden_CD[part], target_C[part, None]
            distribution = log_distribution(head(hidden), temperature, overwrite=True)
            with torch.enable_grad():
                logprobs = _chosen(distribution, target_C[part]).requires_grad_()
                loss = token_loss(logprobs, part)
                (slope,) = torch.autograd.grad(loss, logprobs)
            total += loss.detach()
            chosen.append(logprobs.detach())
            probability = distribution.exp()
            entropies.append(-torch.linalg.vecdot(probability, distribution))
            slope = (slope / temperature)[:, None]
            # The tile of probabilities becomes that of d loss / d logits.
            for_logits = probability.mul_(-slope)
            for_logits.scatter_add_(1, target, slope)
            if wants_bias:
                for_bias += for_logits.sum(0)
            for_logits = for_logits.to(weight.dtype)
            if wants_hidden:
                for_hidden[part] = _matmul(for_logits, weight, head)
            if wants_weight:
                for_weight += _matmul(for_logits.t(), hidden, head)
        ctx.save_for_backward(for_hidden, for_weight, for_bias)
        ctx.dtype = weight.dtype
        logprobs, entropy = torch.cat(chosen), torch.cat(entropies)
        ctx.mark_non_differentiable(logprobs, entropy)
        return total, logprobs, entropy

    @staticmethod
    def backward(ctx, for_loss, *unused):
        scaled = [g if g is None or for_loss == 1 else g * for_loss for g in ctx.saved_tensors]
        rounded = [g if g is None else g.to(ctx.dtype) for g in scaled]
        return *rounded, None, None, None, None


def _tiles(count: int, head: nn.Linear) -> list[slice]:
    """Parts of ``count`` positions, of at most TILE_ELEMENTS logits each."""
    size = max(1, TILE_ELEMENTS // head.weight.shape[0])
    return [slice(start, start + size) for start in range(0, count, size)]


def _matmul(one: Tensor, other: Tensor, head: nn.Linear) -> Tensor:
    """one @ other, by the head's own kind of product."""
    return product(one, other.t()) if isinstance(head, OneDnnLinear) else one @ other


def _chosen(distribution: Tensor, target: Tensor) -> Tensor:
    return distribution.gather(1, target.unsqueeze(1)).squeeze(1)
