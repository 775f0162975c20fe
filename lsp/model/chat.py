"""Conversations go in; token ids under a chat template come out, contents as plain text.

The template and its contents are encoded apart, so a query that spells ``<|eot_id|>`` stays
characters: **text that a model wrote never becomes structure.**
"""

from collections.abc import Sequence
from functools import cache

from transformers import PreTrainedTokenizerBase

from lsp.settings.prompts import ChatRole


class ChatFormat:
    """The template is rendered once per sequence of roles with marks in place of contents, cut at
    the marks, and its pieces are encoded with special tokens; contents are encoded without. Where
    the template trims contents (Llama 3's does), they are trimmed here too. Equal to
    ``apply_chat_template(..., sanitize_control_tokens=True)`` (a test holds it to that), at one
    batched encoding instead of one template run for each conversation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, date_string: str | None = None):
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, so roles cannot"
                " be told apart; choose an instruct model, or save a chat template beside it"
            )
        self.tokenizer = tokenizer
        self._options = {} if date_string is None else {"date_string": date_string}
        self._template_pieces = cache(self._rendered)

    def encode(self, conversations: Sequence[Sequence[tuple[ChatRole, str]]]) -> list[list[int]]:
        """Token ids of each conversation, up to and including the opening of the assistant's
        turn; a conversation that ends with the assistant is closed instead."""
        contents: list[str] = []
        plans = []
        for messages in conversations:
            roles = tuple(role for role, _ in messages)
            pieces, trims = self._template_pieces(roles)
            plans.append(pieces)
            contents += [text.strip() if trims else text for _, text in messages]
        encoded = iter(self.encode_text(contents))
        ids = []
        for first, *others in plans:
            row = list(first)
            for piece in others:
                row += next(encoded) + piece
            ids.append(row)
        return ids

    def encode_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Plain text -> ids; nothing in it becomes a special token."""
        if not texts:
            return []
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids

    def _rendered(self, roles: tuple[ChatRole, ...]) -> tuple[list[list[int]], bool]:
        """(the template's ids before, between and after contents, whether it trims contents)."""
        marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
        messages = [{"role": r, "content": f" {m} "} for r, m in zip(roles, marks, strict=True)]
        opens = {"add_generation_prompt": roles[-1] != "assistant"}
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, **opens, **self._options
        )
        trims = f" {marks[0]} " not in text
        pieces = []
        for mark in marks:
            before, separator, text = text.partition(mark if trims else f" {mark} ")
            if not separator:
                raise ValueError(
                    f"the chat template of {self.tokenizer.name_or_path!r} drops or rewrites"
                    f" the contents of a {'/'.join(roles)} conversation; use another template"
                )
            pieces.append(before)
        pieces.append(text)
        return self.tokenizer(pieces, add_special_tokens=False).input_ids, trims
