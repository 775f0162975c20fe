"""Whatever a reward server does, a call ends, with one line that says what it was."""

import pytest
from bad_answers import ENDLESS, FOR_REWARD, BadServer, redirects

from lsp.contracts import BuildContext
from lsp.rewards.http import HttpReward

KEY = "q7-Reward_Key.0123456789"
BAD = {**FOR_REWARD, **ENDLESS, **redirects("http://127.0.0.1:9/")}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_one_line_with_its_reason(name, monkeypatch):
    monkeypatch.setattr("lsp.tools.retry.backoff", lambda attempt: 0.0)
    monkeypatch.setenv("REWARD_HOLDER", KEY)
    server = BadServer(BAD[name])
    scorer = HttpReward(
        url=server.url, api_key_env="REWARD_HOLDER", batch_size=4, concurrency=2, max_tries=2,
        timeout_seconds=0.3 if name in ENDLESS else 600.0,
    ).build(BuildContext(None))  # fmt: skip
    with pytest.raises(
        ValueError, match=rf"the reward server {server.url} (gave|refuses)"
    ) as raised:
        scorer(["a", "b"], ["c", "d"])
    said = str(raised.value)
    assert said.isprintable() and len(said) < 500 and KEY not in said
    assert f"Bearer {KEY}".encode() in server.requests[0] and len(server.requests) <= 2
    server.close()


def test_there_are_sixty():
    assert len(BAD) >= 60
