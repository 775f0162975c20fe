"""Command lines of the smaller commands: names, and settings of one class."""

import pytest
from pydantic import Field

from lsp.errors import RunError
from lsp.settings.command import parsed_value, read_command, read_settings, split_settings
from lsp.settings.schema import settings


@settings
class Options:
    count: int = Field(default=3, ge=1, le=9, description="so many")
    place: str | None = Field(default=None, description="where")
    words: tuple[str, ...] = Field(default=(), description="any")


def test_names_and_settings_are_told_apart(tmp_path):
    odd = tmp_path / "a=b"  # a folder whose name has the sign in it
    odd.mkdir()
    names, options = read_command(Options, ["run-1", str(odd), "count=5", "words=[a,b]"])
    assert names == ["run-1", str(odd)] and options == Options(count=5, words=("a", "b"))
    assert read_command(Options, []) == ([], Options())


def test_every_unknown_or_unfit_setting_is_told_at_once():
    with pytest.raises(RunError) as raised:
        read_command(Options, ["cuont=5", "count=10", "place=3"])
    text = str(raised.value)
    assert text.startswith("3 problems in the settings\n")
    assert "cuont=5: no such setting. Did you mean count." in text
    assert "count=10: must be at most 9. Choose count=9 or less." in text
    assert "place=3: must be text. Write place=<str>." in text


def test_a_command_of_settings_alone_refuses_a_name():
    assert read_settings(Options, ["place=x"]) == Options(place="x")
    with pytest.raises(RunError, match="^run-1 is no setting; write key=value$"):
        read_settings(Options, ["run-1"])


def test_settings_of_others_are_left_to_them():
    arguments = ["run-1", "count=5", "seed=1", "place=x"]
    assert split_settings(Options, arguments) == (["run-1", "count=5", "place=x"], ["seed=1"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 0.001), ("null", None), ("true", True), ("[a,b]", ["a", "b"]), ("x", "x"),
     ("/tmp/é", "/tmp/é"), ("[a=b]", ["a=b"]), ("1,2", "1,2"), ("'3'", "3")],
)  # fmt: skip
def test_what_a_value_is(text, value):
    assert parsed_value(text) == value
