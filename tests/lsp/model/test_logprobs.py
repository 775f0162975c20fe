"""Log-probabilities, entropy and gradients against a plain fp32 ``model(...).logits``."""

import pytest
import torch

from lsp.batch import pad
from lsp.model import logprobs
from lsp.model.language_model import check_paths, load_model
from lsp.model.logprobs import (
    checkpoint_layers,
    completion_hidden,
    completion_scores,
    head_loss,
    log_distribution,
)
from lsp.model.onednn import OneDnnLinear, available
from lsp.rollout.sampling import sample
from lsp.types import TrainingRow


@pytest.fixture
def llama(llama_folder):
    return load_model(llama_folder, "float32", torch.device("cpu"))[0]


def ragged_rows():
    generator = torch.Generator().manual_seed(3)
    sizes = [(5, 4), (9, 1), (2, 11), (7, 7)]
    return [
        TrainingRow(
            "solver",
            tuple(torch.randint(0, 280, (p,), generator=generator).tolist()),
            tuple(torch.randint(0, 280, (c,), generator=generator).tolist()),
            (0.0,) * c,
            0.1 * (i + 1),
            0.1,
            1,
        )
        for i, (p, c) in enumerate(sizes)
    ]


def plain_scores(model, rows, temperature):
    """One row at a time, all logits, no padding."""
    chosen, entropy = [], []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        logits = model(input_ids=ids, use_cache=False).logits[0].float() / temperature
        distribution = logits.log_softmax(-1)[len(row.prompt_ids) - 1 : -1]
        target = torch.tensor(row.completion_ids)
        chosen.append(distribution[torch.arange(len(target)), target])
        entropy.append(-(distribution.exp() * distribution).sum(-1))
    return torch.cat(chosen), torch.cat(entropy)


@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equal_to_the_full_computation(llama, monkeypatch, tile, temperature):
    if tile:
        monkeypatch.setattr(logprobs, "TILE_ELEMENTS", tile * llama.config.vocab_size)
    rows = ragged_rows()
    expected, entropy = plain_scores(llama, rows, temperature)
    weights = torch.linspace(-1, 1, len(expected))
    (expected * weights).sum().backward()
    gradients = [p.grad.clone() for p in llama.parameters()]
    llama.zero_grad()
    scores = completion_scores(llama, pad(rows), temperature)
    (scores.logprobs_C * weights).sum().backward()
    assert torch.allclose(scores.logprobs_C, expected, atol=1e-5)
    assert torch.allclose(scores.entropy_C, entropy, atol=1e-5)
    for parameter, gradient in zip(llama.parameters(), gradients, strict=True):
        assert (parameter.grad - gradient).norm() <= 1e-5 * max(1.0, gradient.norm())


@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
def test_a_loss_of_the_head_equals_the_full_computation(
    llama, monkeypatch, tile, temperature, bias
):
    """Loss and every gradient, for a loss that is not linear in the log-probabilities."""
    head = llama.get_output_embeddings()
    if bias:
        head.bias = torch.nn.Parameter(torch.linspace(-1, 1, llama.config.vocab_size))
        head.bias.requires_grad_()
    if tile:
        monkeypatch.setattr(logprobs, "TILE_ELEMENTS", tile * llama.config.vocab_size)
    rows = ragged_rows()
    expected, entropy = plain_scores(llama, rows, temperature)
    weights = torch.linspace(-1, 1, len(expected))
    full = ((expected + 2.0).square() * weights).sum()
    (3 * full).backward()
    gradients = [p.grad.clone() for p in llama.parameters()]
    llama.zero_grad()
    batch = pad(rows)
    target = batch.completion_ids_BT[batch.completion_mask_BT]
    loss, scores = head_loss(
        completion_hidden(llama, batch), head, target, temperature,
        lambda logprobs, part: ((logprobs + 2.0).square() * weights[part]).sum(),
    )  # fmt: skip
    assert loss.item() == pytest.approx(full.item(), rel=1e-5)
    assert torch.allclose(scores.logprobs_C, expected, atol=1e-5)
    assert torch.allclose(scores.entropy_C, entropy, atol=1e-5)
    assert not scores.logprobs_C.requires_grad
    (3 * loss).backward()
    for parameter, gradient in zip(llama.parameters(), gradients, strict=True):
        assert (parameter.grad - gradient).norm() <= 1e-5 * max(1.0, gradient.norm())


@pytest.mark.parametrize("vocabulary", [300, 49_152, 151_936])
def test_logprobs_are_exact_at_real_vocabularies(vocabulary):
    """And one code path: policy, reference and engine give equal numbers for equal logits."""
    torch.manual_seed(7)
    hidden, head = torch.randn(8, 16), torch.nn.Linear(16, vocabulary, bias=False)
    with torch.no_grad():
        head.weight *= (
            5  # logits of deviation 3, as models have; torch's log_softmax is biased there
        )
        logits = head(hidden)
        error = log_distribution(logits, 0.7) - (logits.double() / 0.7).log_softmax(-1)
        found = log_distribution(logits, 0.7)
    assert error.mean().abs() < 1e-6 and error.abs().max() < 5e-6
    uniform = torch.rand(8, dtype=torch.float64)
    token, engine = sample(logits, 0.7, uniform)
    _, policy = head_loss(hidden, head, token, 0.7, lambda logprobs, part: logprobs.sum())
    chosen = found.gather(1, token[:, None])[:, 0]
    assert torch.equal(engine, chosen) and torch.equal(policy.logprobs_C, chosen)
    # Equal to the kept logits, wherever they are written over.
    assert torch.equal(log_distribution(logits.clone(), 0.7, overwrite=True), found)


def hidden_and_bytes_kept(model, batch):
    """Hidden states, and the bytes of all tensors that their backward pass keeps."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.update({tensor.data_ptr(): tensor.nbytes}), tensor)[1], lambda t: t
    ):
        hidden = completion_hidden(model, batch)
    return hidden, sum(kept.values())


def test_layers_computed_again_give_the_same_gradients_from_less(llama):
    """And both passes, over the prompts and over what follows them, are computed again."""
    batch = pad(ragged_rows())
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_layers(llama)
        llama.zero_grad()
        hidden, kept = hidden_and_bytes_kept(llama, batch)
        hidden.square().sum().backward()
        results.append((hidden, [p.grad.clone() for p in llama.parameters() if p.grad is not None]))
        results[-1] += (kept,)
    (plain, gradients, bytes_plain), (again, recomputed, bytes_again) = results
    assert torch.equal(plain, again) and len(recomputed) == len(gradients)
    for one, two in zip(recomputed, gradients, strict=True):
        assert (one - two).norm() <= 1e-6 * max(1.0, two.norm())
    assert bytes_again < bytes_plain / 4


def test_a_frozen_head_gets_no_gradient(llama):
    head = torch.nn.Linear(8, 40, bias=False).requires_grad_(False)
    hidden = torch.randn(5, 8, requires_grad=True)
    loss, _ = head_loss(hidden, head, torch.arange(5), 1.0, lambda logprobs, part: logprobs.sum())
    loss.backward()
    assert head.weight.grad is None and hidden.grad.abs().sum() > 0


def test_rows_of_one_prompt_share_it_exactly(llama):
    """Equal to each row alone, gradients too; completions of one token and of many together."""
    prompts, source = [(5, 6, 7, 8), (9,)], torch.Generator().manual_seed(8)
    rows = [
        TrainingRow("solver", prompts[i % 2], tuple(torch.randint(0, 280, (n,), generator=source)
                    .tolist()), (0.0,) * n, 1.0, 0.1, 1)
        for i, n in enumerate([1, 6, 3, 2])
    ]  # fmt: skip
    batch = pad(rows)
    assert batch.prompt_ids_KP.shape == (2, 4)
    expected, _ = plain_scores(llama, rows, 1.0)
    weights = torch.linspace(-1, 1, len(expected))
    (expected * weights).sum().backward()
    gradients = [p.grad.clone() for p in llama.parameters()]
    llama.zero_grad()
    scores = completion_scores(llama, batch, 1.0)
    (scores.logprobs_C * weights).sum().backward()
    assert torch.allclose(scores.logprobs_C, expected, atol=1e-5)
    for parameter, gradient in zip(llama.parameters(), gradients, strict=True):
        assert (parameter.grad - gradient).norm() <= 1e-5 * max(1.0, gradient.norm())
    ones = [row for row in rows if len(row.completion_ids) == 1]
    assert torch.allclose(
        completion_scores(llama, pad(ones), 1.0).logprobs_C, expected[:1], atol=1e-5
    )


@pytest.mark.skipif(not available(), reason="this torch has no oneDNN product here")
def test_a_onednn_head_has_the_same_gradients():
    torch.manual_seed(0)
    hidden, target = torch.randn(9, 64), torch.arange(9)
    results = []
    for kind in (torch.nn.Linear, OneDnnLinear):
        torch.manual_seed(1)
        head = torch.nn.Linear(64, 300, bias=False)
        head.__class__ = kind
        own = hidden.clone().requires_grad_()
        loss, _ = head_loss(own, head, target, 0.8, lambda logprobs, part: logprobs.square().sum())
        loss.backward()
        results.append((loss.detach(), own.grad, head.weight.grad))
    for one, two in zip(*results, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-5) and one.abs().sum() > 0


def test_training_holds_a_tile_of_logits_at_a_time(llama, monkeypatch):
    monkeypatch.setattr(logprobs, "TILE_ELEMENTS", 4 * llama.config.vocab_size)
    seen = []
    inner = logprobs.log_distribution
    monkeypatch.setattr(
        logprobs,
        "log_distribution",
        lambda logits, *a, **k: (seen.append(len(logits)), inner(logits, *a, **k))[1],
    )
    batch = pad(ragged_rows())
    target = batch.completion_ids_BT[batch.completion_mask_BT]
    hidden, head = completion_hidden(llama, batch), llama.get_output_embeddings()
    head_loss(hidden, head, target, 1.0, lambda logprobs, part: logprobs.sum())
    assert seen == [4, 4, 4, 4, 4, 3]


def test_rows_without_tokens_are_refused():
    for prompt, completion in (((), (1,)), ((1,), ())):
        with pytest.raises(ValueError, match="no prompt tokens or no completion tokens"):
            pad([TrainingRow("solver", prompt, completion, (), 0.0, 0.0, 1)])


ARCHITECTURES = {
    "qwen2": ("Qwen2", {"num_key_value_heads": 2}),
    "gemma": ("Gemma", {"num_key_value_heads": 1, "head_dim": 8}),
    "neox": ("GPTNeoX", {}),
    "phi": ("Phi", {}),
    "mixtral": (
        "Mixtral",
        {"num_local_experts": 2, "num_key_value_heads": 2, "sliding_window": None},
    ),
}


def random_model(kind, **more):
    import transformers

    shape = dict(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                 num_attention_heads=4, initializer_range=0.3, pad_token_id=None)  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**{**shape, **more})
    torch.manual_seed(3)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures_compute_the_same(name):
    kind, more = ARCHITECTURES[name]
    model = random_model(kind, **more)
    check_paths(model)
    rows = [
        TrainingRow("solver", (5, 6, 7), ids, (0.0,) * len(ids), 1.0, 0.1, 1)
        for ids in ((8, 9, 10, 11), (12,), (13, 14))
    ]
    expected, _ = plain_scores(model, rows, 1.0)
    assert torch.allclose(completion_scores(model, pad(rows), 1.0).logprobs_C, expected, atol=1e-4)


def test_no_tensor_over_prompt_and_padding_is_made(llama, monkeypatch):
    """The head sees completion positions alone, at most a tile at a time."""
    monkeypatch.setattr(logprobs, "TILE_ELEMENTS", 5 * llama.config.vocab_size)
    seen = []
    hook = llama.get_output_embeddings().register_forward_hook(
        lambda module, args, out: seen.append(out.shape[0])
    )
    rows = ragged_rows()
    with torch.no_grad():
        completion_scores(llama, pad(rows), 1.0)
    hook.remove()
    assert sum(seen) == sum(len(row.completion_ids) for row in rows) and max(seen) == 5


def test_the_whole_distribution_on_request(llama):
    scores = completion_scores(llama, pad(ragged_rows()), 1.0, with_distribution=True)
    assert torch.allclose(scores.distribution_CV.exp().sum(-1), torch.ones(23), atol=1e-5)


def test_the_pad_id_keeps_its_embedding_gradient(llama):
    """A padding index would drop it, and a rollout can sample that id."""
    row = TrainingRow("solver", (5, 0, 7), (0, 3), (0.0, 0.0), 1.0, 1.0, 1)
    completion_scores(llama, pad([row]), 1.0).logprobs_C.sum().backward()
    assert llama.get_input_embeddings().weight.grad[0].abs().sum() > 0


def test_a_model_that_changes_its_logits_after_the_head_is_refused(llama):
    check_paths(llama)
    llama.register_forward_hook(
        lambda module, args, out: out.__setitem__("logits", out.logits.tanh()) or out
    )
    with pytest.raises(ValueError, match="may change its logits after the vocabulary head"):
        check_paths(llama)
