"""Logits and uniform numbers -> tokens, against exact probabilities."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsp.rollout.sampling import sample
from lsp.types import DrawKey


def logits_of(vocabulary):
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(4)) * 1.5


@pytest.mark.parametrize("vocabulary", [2, 7, 86, 1000])
def test_sampled_frequencies_match_the_probabilities(vocabulary):
    """Chi-square over 50,000 draws, rare tokens taken together: below the 99.9 % quantile, which is
    about df + 3.1 sqrt(2 df) + 6."""
    count = 50_000
    logits = logits_of(vocabulary)
    uniform = torch.from_numpy(DrawKey(3, 1, "x").uniforms(0, count))
    token, logprob = sample(logits.expand(count, -1), 0.7, uniform)
    probability = (logits.double() / 0.7).softmax(0)
    expected, observed = probability * count, torch.bincount(token, minlength=vocabulary).double()
    common = expected >= 5
    cells = [(observed[common], expected[common])]
    if (~common).any():
        cells.append((observed[~common].sum()[None], expected[~common].sum()[None]))
    chi_square = sum(((o - e) ** 2 / e).sum() for o, e in cells)
    freedom = sum(len(o) for o, _ in cells) - 1
    assert chi_square < freedom + 3.1 * (2 * freedom) ** 0.5 + 6
    assert torch.allclose(logprob, probability.log()[token].float(), atol=1e-5)


@given(st.integers(1, 700), st.floats(0, 1, exclude_max=True), st.integers(0, 99))
def test_two_levels_find_the_token_of_one_level(vocabulary, uniform, seed):
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    logits[:, ::3] = -torch.inf if vocabulary > 1 else 0.0
    cumulative = (logits - logits.amax()).exp().double().cumsum(-1)
    distance = (cumulative / cumulative[:, -1:] - uniform).abs().min()
    token, _ = sample(logits, 1.0, torch.tensor([uniform], dtype=torch.float64))
    assert logits[0, token] > -torch.inf
    if distance > 1e-9:  # at a boundary rounding decides
        threshold = torch.tensor([[uniform]], dtype=torch.float64) * cumulative[:, -1:]
        assert token.item() == torch.searchsorted(cumulative, threshold, right=True).item()


def test_top_p_keeps_the_likeliest_and_the_log_probabilities_of_all():
    logits = torch.tensor([[0.1, 0.5, 0.4]]).log()  # the nucleus of 0.6 is 0.5 and 0.4
    uniform = torch.linspace(0, 0.999, 90, dtype=torch.float64)
    token, logprob = sample(logits.expand(90, -1), 1.0, uniform, top_p=0.6)
    assert torch.bincount(token, minlength=3).tolist() == [0, 50, 40]
    assert torch.allclose(logprob.exp(), torch.tensor([0.1, 0.5, 0.4])[token])
    token, _ = sample(logits.expand(90, -1), 1.0, uniform, top_p=1e-9)
    assert set(token.tolist()) == {1}


def test_the_ends_of_the_unit_interval_give_tokens_with_probability():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    low, _ = sample(logits, 1.0, torch.tensor([0.0], dtype=torch.float64))
    high, _ = sample(logits, 1.0, torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert (low.item(), high.item()) == (1, 3)


def test_temperature_by_hand():
    # Logits 0 and ln 3: probabilities 1/4 and 3/4; at temperature 1/2 they are 1/10 and 9/10.
    logits = torch.tensor([[0.0, 3.0]]).expand(3, -1).clone()
    logits[:, 1] = torch.tensor(3.0).log()
    uniform = torch.tensor([0.05, 0.2, 0.9], dtype=torch.float64)
    token, logprob = sample(logits, 1.0, uniform)
    assert token.tolist() == [0, 0, 1]
    assert logprob.exp().tolist() == pytest.approx([0.25, 0.25, 0.75])
    token, logprob = sample(logits, 0.5, uniform)
    assert token.tolist() == [0, 1, 1]
    assert logprob.exp().tolist() == pytest.approx([0.1, 0.9, 0.9])
    token, logprob = sample(logits, 0.0, uniform)  # the likeliest, scored as at temperature 1
    assert token.tolist() == [1, 1, 1]
    assert logprob.exp().tolist() == pytest.approx([0.75] * 3)
