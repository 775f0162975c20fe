"""Role prompts, chat templates and the parsers of what the roles wrote.

One rule governs this file: **text that a model wrote never becomes structure.** The chat
template and its contents are encoded apart, so a query that spells ``<|eot_id|>`` stays
characters; role prompts are filled by one-pass replacement, so an answer that spells
``{query}`` stays itself; a judge's tags are read only in what the judge generated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Prompts:
    """The words of one world's roles (``conf/prompts/*.yaml``).

    ``solver``: a system message before each query; empty as in the paper, whose Solver sees the
    query alone.
    ``judge_tag`` surrounds the total that the judge writes in ``generate`` mode; empty means
    that its whole text is the digit. In ``expected`` mode the judge's turn opens with
    ``judge_opening`` and the digit is the very next token.
    """

    challenger: str
    challenger_task: str
    challenger_template: str
    template_tags: tuple[str, ...]
    judge: str
    judge_opening: str
    judge_tag: str
    solver: str = ""

    def challenger_messages(self) -> list[tuple[Role, str]]:
        text = fill(
            self.challenger,
            {"task": self.challenger_task, "template": self.challenger_template},
        )
        return [("user", text)]

    def solver_messages(self, query: str) -> list[tuple[Role, str]]:
        system: list[tuple[Role, str]] = [("system", self.solver)] if self.solver else []
        return [*system, ("user", query)]

    def judge_messages(self, query: str, answer: str) -> list[tuple[Role, str]]:
        """What the self-judge sees. Query and answer are turns, not fields of one text, so
        that nothing in them can close a field or speak for the judge."""
        return [("user", query), ("assistant", answer), ("user", self.judge)]


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each ``{name}`` in one pass: a value that contains ``{other}`` is not filled again.

    Raises ValueError for a placeholder without a value.
    """

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"prompt placeholder {match[0]} has no value; known: {sorted(values)}")
        return values[match[1]]

    return re.sub(r"\{(\w+)\}", value_of, template)


def parse_query(text: str, template_tags: Sequence[str]) -> tuple[str, bool]:
    """What the Challenger asks -> (query, valid structure).

    Tags of the prompt's template are taken off once at the two ends; a tag that remains inside
    makes the query invalid: it is recorded as written and not played.
    """
    query = text.strip()
    for tag in template_tags:
        query = query.removeprefix(tag).removesuffix(tag).strip()
    return query, not any(tag in query for tag in template_tags)


def parse_quality(text: str, tag: str) -> int | None:
    """The judge's total, 0..7, or None where it cannot be read.

    Strict: exactly one ``<tag>d</tag>`` in the text (without a tag: the text is one digit).
    Two totals, 8, 3.5 or "seven" are unparsable, not guessed at.
    """
    if not tag:
        return int(text) if re.fullmatch(r"[0-7]", text.strip()) else None
    found = re.findall(rf"<{re.escape(tag)}>\s*(.*?)\s*</{re.escape(tag)}>", text, re.DOTALL)
    return int(found[0]) if len(found) == 1 and re.fullmatch(r"[0-7]", found[0]) else None


class ChatFormat:
    """Encodes conversations under a tokenizer's chat template, contents as plain text.

    The template is rendered once per sequence of roles with marks in place of contents, cut at
    the marks, and its pieces are encoded with special tokens; contents are encoded without.
    Where the template trims contents (Llama 3's does), they are trimmed here too.

    Equal to ``apply_chat_template(..., sanitize_control_tokens=True)`` (a test holds it to
    that), at one batched encoding instead of one template run for each conversation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, date_string: str | None = None):
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, so roles cannot"
                " be told apart; choose an instruct model, or save a chat template beside it"
            )
        self.tokenizer = tokenizer
        self._options = {} if date_string is None else {"date_string": date_string}
        self._pieces: dict[tuple[tuple[Role, ...], bool], tuple[list[list[int]], bool]] = {}

    def encode(self, conversations: Sequence[Sequence[tuple[Role, str]]]) -> list[list[int]]:
        """Token ids of each conversation, up to and including the opening of the assistant's
        turn; a conversation that ends with the assistant is closed instead."""
        contents: list[str] = []
        plans = []
        for messages in conversations:
            roles = tuple(role for role, _ in messages)
            pieces, trims = self._template_pieces(roles, roles[-1] != "assistant")
            plans.append(pieces)
            contents += [text.strip() if trims else text for _, text in messages]
        encoded = iter(self.encode_text(contents))
        ids = []
        for pieces in plans:
            row = list(pieces[0])
            for piece in pieces[1:]:
                row += next(encoded)
                row += piece
            ids.append(row)
        return ids

    def encode_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Plain text -> ids; nothing in it becomes a special token."""
        if not texts:
            return []
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids

    def _template_pieces(
        self, roles: tuple[Role, ...], open_assistant: bool
    ) -> tuple[list[list[int]], bool]:
        key = (roles, open_assistant)
        if key not in self._pieces:
            marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
            text = self.tokenizer.apply_chat_template(
                [{"role": role, "content": f" {m} "} for role, m in zip(roles, marks, strict=True)],
                tokenize=False,
                add_generation_prompt=open_assistant,
                **self._options,
            )
            trims = f" {marks[0]} " not in text
            pieces = []
            for mark in marks:
                before, found, text = text.partition(mark if trims else f" {mark} ")
                if not found:
                    raise ValueError(
                        f"the chat template of {self.tokenizer.name_or_path!r} drops or rewrites"
                        f" the contents of a {'/'.join(roles)} conversation; use another template"
                    )
                pieces.append(before)
            pieces.append(text)
            encoded = self.tokenizer(pieces, add_special_tokens=False).input_ids
            self._pieces[key] = (encoded, trims)
        return self._pieces[key]
