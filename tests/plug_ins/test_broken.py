"""What breaks its contract is refused by name, before a model loads."""

import pytest

from lsp.errors import ConfigError

BROKEN = {
    "a reward without a call": (
        "class Half(RewardSettings):\n    def build(self, context: BuildContext) -> 'HalfReward':\n"
        "        return HalfReward()\n\n\nclass HalfReward(Reward):\n    pass\n",
        "builds a HalfReward, which lacks __call__",
    ),
    "no build": ("class Half(RewardSettings):\n    pass\n", "lacks build"),
    "another contract": (
        "class Half(QueriesSettings):\n    def build(self, context):\n        return ['a']\n",
        "does not inherit lsp.contracts.RewardSettings",
    ),
}


@pytest.mark.parametrize("source, reason", BROKEN.values(), ids=BROKEN)
def test_what_breaks_its_contract_is_refused_when_settings_are_read(
    install, planned, source, reason
):
    install(
        "rewards",
        "half",
        f"\n\n@settings\n{source}",
        "reward",
        "_target_: lsp.rewards.half.Half\n",
    )
    with pytest.raises(ConfigError) as caught:
        planned("reward=half")
    (problem,) = caught.value.problems
    assert problem.key == "reward._target_" and problem.reason == reason
    assert "lsp/contracts.py says what RewardSettings must have" in problem.fix
