"""The words of the roles: settings and texts in, messages out.

**Text that a model wrote never becomes structure**: role prompts are filled by one-pass
replacement, so an answer that spells ``{query}`` stays itself. lsp/model/chat.py encodes what comes
out here, under the same rule.
"""

import re
from collections.abc import Mapping
from typing import Literal

from lsp.settings.schema import setting, settings

ChatRole = Literal["system", "user", "assistant", "opening"]
"""``opening``: how the assistant's turn begins, in a last message that the model goes on with."""
Messages = list[tuple[ChatRole, str]]
"""A conversation: (who speaks, what)."""


@settings
class Prompts:
    """The words of one world's roles (``conf/prompts/*.yaml``)."""

    challenger: str = setting("what the Challenger is asked; {task} and {template} are filled in")
    challenger_task: str = setting("the {task} of the Challenger's prompt")
    challenger_template: str = setting("the {template} of the Challenger's prompt")
    template_tags: tuple[str, ...] = setting(
        "taken off the two ends of a query; one that remains inside makes it malformed"
    )
    solver: str = setting(
        "a system message before each query; empty as in the paper: the query alone", default=""
    )
    judge: str = setting("what the judge is asked after a query and its answer")
    judge_opening: str = setting(
        "how the judge's turn begins; in expected mode the digit is the next token"
    )
    judge_tag: str = setting(
        "surrounds the total in generate mode; empty: the judge's text is one digit"
    )

    def challenger_messages(self) -> Messages:
        values = {"task": self.challenger_task, "template": self.challenger_template}
        return [("user", fill(self.challenger, values))]

    def solver_messages(self, query: str) -> Messages:
        system: Messages = [("system", self.solver)] if self.solver else []
        return [*system, ("user", query)]

    def judge_messages(self, query: str, answer: str) -> Messages:
        """What the self-judge sees. Query and answer are turns, not fields of one text, so
        that nothing in them can close a field or speak for the judge."""
        return [("user", query), ("assistant", answer), ("user", self.judge)]


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each ``{name}`` in one pass: a value that contains ``{other}`` is not filled again.
    Raises ValueError for a placeholder without a value."""

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"prompt placeholder {match[0]} has no value; known: {sorted(values)}")
        return values[match[1]]

    return re.sub(r"\{(\w+)\}", value_of, template)
