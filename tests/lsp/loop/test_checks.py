"""What the first steps must show."""

import pytest

from lsp.loop.checks import not_the_reference, unknown_objective
from lsp.settings.compose import compose


def test_before_the_first_update_kl_is_rounding():
    assert not_the_reference({"kl/solver/k2": 9e-7, "loss/kl/solver": 5.0}, "float32") == ""
    assert not_the_reference({}, "float32") == ""
    said = not_the_reference({"kl/solver/k1": -2e-6, "kl/challenger/k2": 1e-9}, "float32")
    assert "their KL is 2e-06 where at most 1e-06 is rounding" in said
    assert "model.lora.rank=0 and runtime.device=cpu rule causes out" in said
    assert not_the_reference({"kl/solver/k1": 9e-4}, "bfloat16") == ""
    assert "at most 0.001" in not_the_reference({"kl/solver/k1": 2e-3}, "bfloat16")


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["objective=null"], False),
        (["objective=loss/total"], False),
        (["objective=loss/totl"], True),
        (["objective=optim/role_gradient_cosine"], False),  # comes at a later step
        (["objective=eval/pocket/gone"], True),
        (["objective=eval/pocket/win_rate", "eval=none"], False),  # the world's own
    ],
)
def test_an_objective_is_a_metric_of_the_first_step_or_may_come_later(overrides, refused):
    said = unknown_objective(compose(overrides), ["loss/total", "eval/pocket/win_rate"])
    assert bool(said) == refused
    if refused:
        assert "is no metric of this run; docs/metrics.md has them all, near it are" in said
