"""What ``rollout`` says reaches the engine, and what the judge's engine is freed from."""

from lsp.contracts import BuildContext
from lsp.players import load_players
from lsp.rollout.in_process import InProcessEngine
from lsp.rollout.settings import InProcess, unrestricted
from lsp.run.init import resolve_init
from lsp.settings.compose import compose

SET = ["rollout.stop=[a]", "rollout.top_p=0.01", "rollout.max_tokens=64", "rollout.max_rows=5"]


def test_the_engine_has_the_settings_of_the_rollout(players):
    config = compose(SET)
    context = BuildContext(config, chat=players.chat, end_ids=frozenset({1, 2}))
    engine = config.rollout.engine.build(context)
    assert isinstance(engine, InProcessEngine) and config.rollout.engine == InProcess()
    assert (engine.max_rows, engine.max_tokens, engine.top_p) == (5, 64, 0.01)
    assert engine.stop_strings == ("a",) and engine.stop_ids.tolist() == [1, 2]
    free = config.rollout.engine.build(unrestricted(context))
    assert (free.max_rows, free.top_p, free.stop_strings) == (5, 1.0, ())


def test_stop_strings_and_top_p_work_end_to_end():
    """The likeliest token alone, cut at ``a``; the judge is bound by neither."""
    config = compose(["tracker=none", "group_size=3", *SET])
    players = load_players(config, resolve_init(config))
    prompts = players.chat.encode([[("user", "copy bca")]])
    (group,) = players.answers(prompts, 1)
    assert {(c.text, c.finish_reason) for c in group} == {("bc", "stop")} and len(group) == 3
    assert players.engine.max_tokens == 64 and players.self_judge.engine.stop_strings == ()
