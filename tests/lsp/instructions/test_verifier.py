"""R of the instructions world by hand, and what cannot be checked."""

import pytest

from lsp.errors import ConfigError
from lsp.instructions import verifier
from lsp.instructions.verifier import Verifier
from lsp.settings.compose import compose

TWO = "Greet a friend. Do not use any commas. Use fewer than 10 words."
ONE = "Greet a friend. Use lowercase letters only."


@pytest.mark.parametrize(
    ("query", "answer", "partial", "exact"),
    [
        (TWO, "Hello my friend!", 1.0, 1.0),
        (TWO, "Hello, my friend!", 0.5, 0.0),
        (TWO, "Hello, my old friend, how do you do on this fine day?", 0.0, 0.0),
        (TWO, "", 0.0, 0.0),  # though it has no comma and few words
        (TWO, " \n", 0.0, 0.0),
        (ONE, "hello my friend how are you doing on this fine day", 1.0, 1.0),
        (ONE, "Hello my friend how are you doing on this fine day", 0.0, 0.0),
        ("Greet a friend.", "Hello", 0.0, 0.0),  # not legal: nothing to follow
    ],
)
def test_the_share_of_rules_that_are_followed(query, answer, partial, exact):
    assert Verifier("partial")([query], [answer]) == [partial]
    scorer = Verifier("exact")
    assert scorer([query], [answer]) == [exact]
    assert scorer.details() == {"followed_all": [exact], "unchecked": [0.0]}


def test_a_checker_that_fails_is_counted(monkeypatch):
    def fails(constraint, prompt, answer):
        return None if constraint.kind == "punctuation:no_comma" else True

    monkeypatch.setattr(verifier, "follows", fails)
    scorer = Verifier("partial")
    assert scorer([TWO, ONE], ["Hello", "hello"]) == [0.5, 1.0]
    assert scorer.details() == {"followed_all": [0.0, 1.0], "unchecked": [1.0, 0.0]}


def test_it_is_of_its_own_world_and_needs_the_extra(monkeypatch):
    with pytest.raises(ConfigError, match="reads the rules of the instructions world"):
        compose(["reward=instructions"])
    monkeypatch.setattr(verifier, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"not installed.*pip install '.\[instructions\]'"):
        compose(["world=instructions", "model=smollm2_135m"])
