"""Conversations go in; token ids as the tokenizer's own chat template gives them come out.

The template renders each conversation, and the text is encoded as a whole: ids are those of
``apply_chat_template(…, sanitize_control_tokens=True)``, by construction. **Text that a model wrote
never becomes structure**: what it spells of a token of the template stays characters. Where the
tokenizer cannot keep it so, or where the template's turns are marked by plain text (``[INST]``), a
blank after the first character keeps a text's spelling apart from the template's (``[ INST]``).
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lsp.settings.prompts import ChatRole, Messages
from lsp.tools.cpu_limit import TooLong, cpu_limit

RENDER_SECONDS = 20.0
"""Processor time for the templates of one call, which take some 20 microseconds each."""

RESERVED = frozenset(
    {
        *("conversation", "messages", "tools", "documents", "chat_template", "tokenize", "padding"),
        *("add_generation_prompt", "continue_final_message", "sanitize_control_tokens"),
        *("truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"),
        *("return_assistant_tokens_mask", "assistant_opening", "pinned_clock", "date_string"),
    }
)
"""Names that ``template_kwargs`` cannot have."""

CLOCK = "26 Jul 2024"
"""The day that a template which asks for today's gets, where no ``date_string`` is set: the one
that Llama 3.2's template falls back to."""

CLOCK_MACRO = """\
{%- macro strftime_now(format) -%}
{%- set day = namespace(text=format) -%}
{%- for directive, value in pinned_clock.items() -%}
{%- set day.text = day.text.replace(directive, value) -%}
{%- endfor -%}
{{ day.text if pinned_clock else date_string }}
{%- endmacro %}
"""
"""Before a template, the ``strftime_now`` that it asks. (A function of ours would not reach it:
transformers hands plain values to templates alone.) The newline at its end is trimmed."""

SHAPES: tuple[tuple[ChatRole, ...], ...] = (
    ("user",),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
)
"""Roles of the conversations in which a template's marks are looked for; all but the first may be
refused by it."""


class ChatFormat:
    """Encodes conversations for one model. ``date_string``: the day that templates are told;
    ``template_kwargs``: what else they are (``enable_thinking``, …). Raises ValueError, with the
    template's name, where it cannot be used."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        date_string: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ):
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, so roles cannot"
                " be told apart; choose an instruct model, or save a chat template beside it"
            )
        self._template = tokenizer.get_chat_template()
        self._options = dict(template_kwargs or {})
        if taken := RESERVED & self._options.keys():
            raise ValueError(
                f"template_kwargs cannot hold {', '.join(sorted(taken))}: that is what every"
                " rendering says by itself; leave it out"
            )
        if date_string is not None:
            self._options["date_string"] = date_string
        if "strftime_now" in self._template:
            self._template = CLOCK_MACRO + self._template
            self._options["pinned_clock"] = pinned_clock(date_string)
        added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.content.strip()]
        self._added = _any_of(added)
        self._apart = _any_of([])
        self.pieces = cache(self._pieces)
        self.pieces(("user",))  # a template that is broken says so before anything else is tried
        self._apart = _any_of([*self._unspellable(added), *self._plain_marks()])

    def encode(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """Token ids of each conversation, up to and including the opening of the assistant's turn,
        and the words of a last ``opening`` message after it; a conversation that ends with the
        assistant is closed instead."""
        if not conversations:
            return []
        prepared = [self._prepared(messages) for messages in conversations]
        texts = self._rendered(prepared)
        ids = self.tokenizer(texts, add_special_tokens=False).input_ids
        for i, (messages, opening) in enumerate(prepared):
            if any(map(self._added.search, [*(m["content"] for m in messages), opening or ""])):
                ids[i] = self._sanitised(messages, opening)
        return ids

    def encode_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Plain text -> ids; nothing in it becomes a special token."""
        if not texts:
            return []
        texts = [_utf8(text) for text in texts]
        return self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids

    @cached_property
    def turn_end_ids(self) -> frozenset[int]:
        """What ends a turn of the assistant's: the tokenizer's end token, and the token that the
        template puts after an answer (``<|im_end|>``, where eos is another)."""
        try:
            after = self.pieces(("user", "assistant", "user"))[2]
        except ValueError:  # it takes no second question
            after = self.pieces(("user", "assistant"))[2]
        found = {self.tokenizer.eos_token_id}
        if mark := self._added.match(after.lstrip()):
            found.add(self.tokenizer.convert_tokens_to_ids(mark[0]))
        return frozenset(found - {None})

    @property
    def end_id(self) -> int:
        """The token that the model ends an answer with: the template's, else eos."""
        others = self.turn_end_ids - {self.tokenizer.eos_token_id}
        return min(others, default=self.tokenizer.eos_token_id)

    def answer_of(self, text: str) -> str:
        """What a reader gets of a completion: where it begins with reasoning (``<think>``, or the
        template has opened that), the text after the last ``</think>``, and nothing where the
        reasoning never ends; else all of it."""
        opened = self.pieces(("user",))[-1].rstrip().endswith("<think>")
        if not opened and not text.lstrip().startswith("<think>"):
            return text
        _, end, answer = text.rpartition("</think>")
        return answer.lstrip() if end else ""

    def _pieces(self, roles: tuple[ChatRole, ...]) -> list[str]:
        """What the template writes before, between and after the contents of such a conversation.
        Raises ValueError where it refuses it, or where a content does not come out."""
        marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
        text = self._rendered([self._prepared(list(zip(roles, marks, strict=True)))])[0]
        pieces = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found:
                raise self._unfit("drops or rewrites its contents", roles)
            pieces.append(before)
        return [*pieces, text]

    def _prepared(self, messages: Messages) -> tuple[list[dict[str, str]], str | None]:
        """(messages in the library's form, the assistant's words so far); None: a closed one."""
        whole = [
            {"role": role, "content": self._apart.sub(_with_blank, _utf8(text))}
            for role, text in messages
        ]
        if whole[-1]["role"] == "opening":
            return whole[:-1], whole[-1]["content"]
        return whole, None if whole[-1]["role"] == "assistant" else ""

    def _rendered(self, prepared: Sequence[tuple[list[dict[str, str]], str | None]]) -> list[str]:
        texts = [""] * len(prepared)
        for closed in (True, False):
            chosen = [i for i, (_, opening) in enumerate(prepared) if (opening is None) == closed]
            if chosen:
                conversations = [prepared[i][0] for i in chosen]
                how = {"tokenize": False, "add_generation_prompt": not closed}
                rendered = self._apply(conversations, self._template, **how)
                for i, text in zip(chosen, rendered, strict=True):
                    texts[i] = text + (prepared[i][1] or "")
        return texts

    def _sanitised(self, messages: list[dict[str, str]], opening: str | None) -> list[int]:
        """Ids of a conversation whose contents spell tokens of the template."""
        # A template's last newline is trimmed, and is not its last any more.
        template = re.sub(r"\r?\n\Z", "", self._template) + "{{ assistant_opening }}"
        return self._apply(
            [messages],
            template,
            assistant_opening=opening or "",
            add_generation_prompt=opening is not None,
            sanitize_control_tokens=True,
        )["input_ids"][0]

    def _apply(self, conversations: list[list[dict[str, str]]], template: str, **how: Any) -> Any:
        """The library's ``apply_chat_template``; what goes wrong in the template is one error."""
        how |= self._options | {"chat_template": template}
        roles = [message["role"] for message in conversations[0]]
        try:
            with cpu_limit(RENDER_SECONDS):
                return self.tokenizer.apply_chat_template(conversations, **how)
        except TooLong as error:
            raise self._unfit(f"does not come to its end within {error}", roles) from error
        except Exception as error:  # a template is code: anything can be raised in it
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise self._unfit(f"cannot render it ({reason})", roles) from error

    def _unspellable(self, added: Sequence[str]) -> list[str]:
        """Tokens that the tokenizer makes of plain text too."""
        if self._encodes_as_text("".join(added)):
            return []
        return [token for token in added if not self._encodes_as_text(token)]

    def _encodes_as_text(self, text: str) -> bool:
        try:
            self._sanitised([{"role": "user", "content": text}], "")
        except ValueError:
            return False
        return True

    def _plain_marks(self) -> list[str]:
        """Plain text by which a text could begin a turn: what the template's pieces are made of,
        where a turn of it ends or begins without any token of its own; and added tokens that it
        puts together itself (``'<|' + role + '|>'``), which the library does not see."""
        marks: set[str] = set()
        for roles in SHAPES:
            try:
                pieces = self.pieces(roles)
            except ValueError:
                continue
            written = {match[0] for piece in pieces for match in self._added.finditer(piece)}
            marks |= {token for token in written if token not in self._template}
            # What follows a system message may be the same turn still (Gemma 3's).
            ends = [
                piece for role, piece in zip(roles, pieces[1:], strict=True) if role != "system"
            ]
            plain = [_lines(piece, self._added) for piece in ends if not self._added.search(piece)]
            if not all(plain):
                raise self._unfit("marks turns by nothing that a text could not hold", roles)
            if plain:
                marks.update(line for piece in pieces for line in _lines(piece, self._added))
        tokens = self.tokenizer.added_tokens_decoder.values()
        return sorted(marks - {token.content for token in tokens if token.special})

    def _unfit(self, fault: str, roles: Sequence[str]) -> ValueError:
        no_system = "leave prompts.solver empty, or " if "system" in roles else ""
        return ValueError(
            f"the chat template of {self.tokenizer.name_or_path!r} is of no use for a conversation"
            f" of {'/'.join(roles)}: it {fault}; {no_system}save another template as"
            " chat_template.jinja in the model's folder, or choose another model"
        )


def take_template(tokenizer: PreTrainedTokenizerBase, adapter: Path) -> None:
    """Use the chat template that lies beside an adapter, where one does: it was trained with it."""
    file, config = adapter / "chat_template.jinja", adapter / "tokenizer_config.json"
    if file.is_file():
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    elif config.is_file():
        saved = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
        tokenizer.chat_template = saved or tokenizer.chat_template


def pinned_clock(date_string: str | None) -> dict[str, str]:
    """Directive of ``strftime`` -> its text on the day of a ``date_string`` like ``26 Jul 2024`` or
    ``2024-07-26`` (none: CLOCK), whenever it is asked; empty for another text, which then stands
    for every format."""
    for form in ("%d %b %Y", "%d %B %Y", "%Y-%m-%d"):
        try:
            day = datetime.strptime(date_string or CLOCK, form)
        except ValueError:
            continue
        directives = ["%-d", "%-m", *(f"%{letter}" for letter in "aAbBcdDeFHIjmMpSTuUwWxXyYZz")]
        return {directive: day.strftime(directive) for directive in directives}
    return {}


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """Matches any of them, the longest first; nothing where there is none. Only where one could
    begin are all of them tried (Gemma's tokenizer has 6,400)."""
    if not words:
        return re.compile("(?!)")
    begins = "".join(sorted({re.escape(word[0]) for word in words}))
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(f"(?=[{begins}])(?:{'|'.join(map(re.escape, longest_first))})")


def _with_blank(match: re.Match[str]) -> str:
    return f"{match[0][0]} {match[0][1:]}"


def _lines(piece: str, added: re.Pattern[str]) -> list[str]:
    """The lines of plain text in a piece that could mark a turn."""
    lines = (line.strip() for part in added.split(piece) for line in part.splitlines())
    return [line for line in lines if len(line) > 1 and not line.isalnum()]


def _utf8(text: str) -> str:
    """Half a surrogate pair has no UTF-8; a question mark stands for it."""
    return text.encode("utf-8", "replace").decode("utf-8")
