"""Linear layers through oneDNN: torch's numbers and gradients, and layers left alone otherwise."""

import copy

import pytest
import torch
from torch import nn

from lsp.model import onednn
from lsp.model.onednn import OneDnnLinear, available, decoding_weights, use_onednn

here = pytest.mark.skipif(not available(), reason="this torch has no oneDNN product here")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(160, 130)
        self.plain = nn.Linear(130, 140, bias=False)
        self.small = nn.Linear(4, 4)
        self.half = nn.Linear(160, 130, dtype=torch.bfloat16)


@pytest.fixture
def nets():
    torch.manual_seed(0)
    ours = Net()
    theirs = copy.deepcopy(ours)
    use_onednn(ours)
    return ours, theirs


@here
def test_only_large_fp32_layers_are_changed(nets):
    ours, _ = nets
    changed = {name for name, m in ours.named_modules() if isinstance(m, OneDnnLinear)}
    assert changed == {"wide", "plain"}


@here
@pytest.mark.parametrize("shape", [(1, 160), (3, 7, 160)])
def test_values_and_gradients_are_torchs(nets, shape):
    results = []
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for net in nets:
        x = rows.clone().requires_grad_()
        out = net.plain(torch.tanh(net.wide(x)))
        out.square().sum().backward()
        gradients = [p.grad for p in (*net.wide.parameters(), *net.plain.parameters())]
        results.append([out, x.grad, *gradients])
    for one, two in zip(*results, strict=True):
        assert one.shape == two.shape and torch.allclose(one, two, rtol=1e-4, atol=1e-5)


@here
def test_a_frozen_weight_gets_no_gradient(nets):
    net, _ = nets
    net.plain.requires_grad_(False)
    x = torch.randn(3, 130, requires_grad=True)
    net.plain(x).sum().backward()
    assert net.plain.weight.grad is None and x.grad is not None


@here
def test_decoding_weights_last_as_long_as_they_are_asked_for(nets):
    ours, theirs = nets
    x = torch.randn(32, 160)
    with torch.no_grad(), decoding_weights(ours, 32):
        assert ours.wide.packed is not None
        for rows in (x, x[:5]):
            assert torch.allclose(ours.wide(rows), theirs.wide(rows), atol=1e-5)
    assert ours.wide.packed is None
    with pytest.raises(RuntimeError), decoding_weights(ours, 32):
        raise RuntimeError
    assert ours.wide.packed is None


@here
def test_what_is_saved_and_copied_is_the_same(nets):
    ours, theirs = nets
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert isinstance(copy.deepcopy(ours).wide, OneDnnLinear)


def test_without_the_operator_layers_stay_torchs(monkeypatch):
    def gone(*unused):
        raise AttributeError("no such operator")

    monkeypatch.setattr(onednn, "product", gone)
    net = Net()
    use_onednn(net)
    assert type(net.wide) is nn.Linear


def test_an_operator_that_disagrees_is_not_used(monkeypatch):
    monkeypatch.setattr(onednn, "product", lambda rows, weight: torch.zeros(rows.shape[0], 5))
    monkeypatch.setattr(onednn, "pack", lambda weight, rows: weight)
    assert not available()
