"""Loss and gradient against TRL's ``grpo`` loss on the same rows (extra ``bench``)."""

import copy
from dataclasses import replace

import pytest
import torch

from lsp.batch import pack, pad
from lsp.game import solver_advantage
from lsp.learner import Learner, UpdateStats
from lsp.losses import token_weight
from lsp.settings.compose import compose
from lsp.types import TrainingRow

trl = pytest.importorskip("trl", reason="needs the extra: pip install '.[bench]'")
BETA = 0.05


@pytest.mark.filterwarnings("ignore")
def test_loss_and_gradient_are_those_of_trl(players, tmp_path):
    """Two groups of four ragged answers, advantages without division by std, our k3."""
    import datasets

    source = torch.Generator().manual_seed(2)
    vocabulary = players.policy.config.vocab_size

    def ids(count):
        return tuple(torch.randint(4, vocabulary, (count,), generator=source).tolist())

    prompts = [ids(5), ids(3)]
    completions = [[ids(n) for n in lengths] for lengths in ((2, 7, 4, 1), (6, 3, 3, 5))]
    advantage = solver_advantage(torch.randn(2, 4, generator=source), divide_by_std=False)
    policy = copy.deepcopy(players.policy)
    with torch.no_grad():  # a policy that has moved away from its reference
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=source))

    # Ours, with a mean over each sequence and over sequences, as TRL's grpo has.
    rows = []
    for prompt, group, own in zip(prompts, completions, advantage.tolist(), strict=True):
        for completion, value in zip(group, own, strict=True):
            weight = token_weight("sequence_mean", len(completion), 8, 0, 0)
            rows.append(
                TrainingRow("solver", prompt, completion, (0.0,) * len(completion),
                            weight * value, weight, 1)
            )  # fmt: skip
    config = compose(["method=grpo", f"method.beta={BETA}", "method.kl_estimator=k3"])
    learner = Learner(replace(players, policy=policy, config=config), config)
    stats = UpdateStats()
    for chosen in pack(rows, 20):
        batch = pad([rows[i] for i in chosen])
        learner._backward(batch, learner._reference(batch), stats)
    ours = {name: p.grad.clone() for name, p in policy.named_parameters()}

    # TRL's, through its own trainer's loss on the same rows.
    policy.zero_grad(set_to_none=True)
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path), beta=BETA, loss_type="grpo", scale_rewards="none",
        use_bias_correction_kl=False, bf16=False, use_cpu=True, report_to=[],
        per_device_train_batch_size=8, num_generations=4, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=policy, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments, processing_class=players.chat.tokenizer,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * 8}),
    )  # fmt: skip
    flat = [(p, c) for p, group in zip(prompts, completions, strict=True) for c in group]
    left = max(len(p) for p, _ in flat)
    right = max(len(c) for _, c in flat)
    reference = []
    for prompt, completion in flat:
        logits = players.reference(input_ids=torch.tensor([prompt + completion])).logits[0]
        scores = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        reference.append(scores[torch.arange(len(completion)), torch.tensor(completion)].detach())
    pad_to = torch.nn.functional.pad
    inputs = {
        "prompt_ids": torch.tensor([[0] * (left - len(p)) + list(p) for p, _ in flat]),
        "prompt_mask": torch.tensor([[0] * (left - len(p)) + [1] * len(p) for p, _ in flat]),
        "completion_ids": torch.tensor([list(c) + [0] * (right - len(c)) for _, c in flat]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (right - len(c)) for _, c in flat]),
        "advantages": advantage.flatten(),
        "ref_per_token_logps": torch.stack([pad_to(r, (0, right - len(r))) for r in reference]),
        "num_items_in_batch": torch.tensor(sum(len(c) for _, c in flat)),
    }
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    theirs = {name: p.grad for name, p in policy.named_parameters()}
    assert stats.loss == pytest.approx(loss.item(), rel=1e-5)
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-5 * max(1.0, gradient.norm().item()), name
