"""What a chat server sent goes in; a response that says what was asked for, or why there is none,
comes out.

A judge is asked for one of a few ``labels`` (m or M, a grade's digit). A label is read by one
strict rule (``label_of``), and everything that is not one is named by its reason: no answer is
guessed, and none is asked for again that cannot come. Without labels any text is an answer.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lsp.tools.http import NoAnswer, read_json, safe, said, text_of
from lsp.tools.retry import may_pass

Response = dict[str, Any]
"""What is kept of a chat completion: ``text``, and ``top_logprobs``, [token, log-prob] of each."""
Request = Mapping[str, Any]
Labels = Sequence[str] | None
"""What an answer can be, each one token as a rule; None: any text."""

_MARKS = r"(\*\*|[\"'`]|)"
_REFUSED_PARAMETER = re.compile(
    r"support|not (?:allowed|permitted|enabled|available)|unrecogni[sz]ed|unknown|unexpected"
    r"|instead|deprecated|only the default|greater than|cannot|invalid|extra",
    re.IGNORECASE,
)
_CONTEXT = re.compile(r"context[ _]length|context window|maximum context", re.IGNORECASE)
_FILTER = re.compile(r"content[ _](?:filter|policy|management)", re.IGNORECASE)


@dataclass(frozen=True)
class NoVerdict:
    """``reason``: one word, which results count; ``text``: what is said of it; ``final``: asking
    again would be paid for and bring the same."""

    reason: str
    text: str
    final: bool = False

    @property
    def of_texts(self) -> bool:
        """Whether it is about what was shown or said; else about the server, at that time."""
        return self.reason in ("length", "refusal", "content_filter", "unreadable", "refused")


@dataclass(frozen=True)
class Fault:
    """An error as a server told it. ``of_status``: ``status`` is HTTP's; else the error came inside
    a 200 and says it, or is taken as 500."""

    status: int
    code: str
    parameter: str
    message: str
    of_status: bool

    def __str__(self) -> str:
        words = " ".join(filter(None, (self.code, self.message)))
        return said(self.status, words) if self.of_status else f"an error inside a 200: {words}"


def label_of(text: str, labels: Sequence[str]) -> str | None:
    """The label where a text is one and nothing else: blanks around it, a full stop and one pair of
    ``**``, quotes or backticks may be there. None for any other text."""
    any_label = "|".join(map(re.escape, labels))
    match = re.fullmatch(rf"{_MARKS}({any_label})(?:\.\1|\1\.?)", after_reasoning(text).strip())
    return match[2] if match else None


def after_reasoning(text: str) -> str:
    """The text after the last ``</think>`` where it begins with reasoning, or where the prompt has
    opened that; nothing where reasoning does not end."""
    if text.lstrip().startswith("<think>"):
        return text.rpartition("</think>")[2] if "</think>" in text else ""
    return text.rpartition("</think>")[2] if "<think>" not in text else text


def read_response(body: Any, request: Request, labels: Labels) -> Response | NoVerdict | Fault:
    """What a 200 says: a label, or log-probs in which one is the likeliest token; a text that is
    not empty where there are no labels."""
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    for told in (body, choice):
        if isinstance(told, dict) and told.get("error"):
            return fault_of(0, told)
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return _of_another_shape("no choices[0].message in " + safe(repr(body), limit=80))
    text, ended = message.get("content"), choice.get("finish_reason")
    if not isinstance(text, str | None):
        return _of_another_shape("content that is no text")
    if message.get("refusal"):
        return NoVerdict("refusal", f"refusal: {safe(str(message['refusal']))}", final=True)
    if ended == "content_filter":
        return NoVerdict("content_filter", "the server's content filter stopped it", final=True)
    answer = after_reasoning(text or "").strip()
    reasoned = answer != (text or "").strip() or any(
        message.get(name) for name in ("reasoning", "reasoning_content")
    )
    limit = request.get("max_tokens", request.get("max_completion_tokens"))
    cut = f"cut at max_tokens={limit}" if ended == "length" else ""
    if not answer and cut:
        return NoVerdict("length", f"{cut} before any answer; raise max_tokens", final=True)
    if labels is None:
        if answer:
            return {"text": answer}
        return NoVerdict("unreadable", "an empty answer")
    # With reasoning before it the first token, whose log-probs come, is not the label.
    top = [] if reasoned else read_logprobs(choice.get("logprobs"))
    if isinstance(top, NoVerdict):
        return top
    response = {"text": safe(answer), "top_logprobs": top}
    if label_logprobs(response, labels) is None:
        shown = f"unreadable answer {safe(answer or text or '', limit=80)!r}"
        return NoVerdict("unreadable", f"{shown} ({cut})" if cut else shown)
    return response


def read_logprobs(logprobs: Any) -> list[list[Any]] | NoVerdict:
    """[token, log-prob] of each of the first token's alternatives; empty where the server gives
    none, in whatever way it says so."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    listed = first.get("top_logprobs") if isinstance(first, dict) else None
    top = []
    for entry in listed if isinstance(listed, list) else []:
        token, logprob = (
            (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(token, str) or not _is_logprob(logprob):
            return _of_another_shape(f"log-prob {safe(f'{logprob!r} of {token!r}', limit=80)}")
        if logprob > -math.inf:
            top.append([safe(token), float(logprob)])
    return top


def _is_logprob(value: Any) -> bool:
    """A number of at most 0, give or take rounding; -inf is one, NaN and true are none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (-1e9 <= value <= 1e-3 or value == -math.inf)


def _of_another_shape(what: str) -> NoVerdict:
    return NoVerdict("shape", f"an answer of another shape: {what}")


def label_logprobs(response: Mapping[str, Any], labels: Sequence[str]) -> list[float] | None:
    """The log-prob of each label in a stored response, -inf of one that is not listed; None where
    it holds no readable label.

    With log-probs of the first token, where a label is the likeliest: those of the labels, each
    with and without blanks around it. Else the label that the text is has them all: a label that is
    only one of the unlikely tokens behind "I" or "Both" is no verdict."""
    if read_from(response, labels) == "logprobs":
        by_label: dict[str, list[float]] = {label: [] for label in labels}
        for token, logprob in response["top_logprobs"]:
            if token.strip() in by_label:
                by_label[token.strip()].append(logprob)
        # log of each label's summed probabilities, -inf of none; nothing underflows.
        return [float(np.logaddexp.reduce(logprobs)) for logprobs in by_label.values()]
    said_label = label_of(response.get("text") or "", labels)
    if said_label is None:
        return None
    return [0.0 if label == said_label else -math.inf for label in labels]


def expected(response: Mapping[str, Any], values: Mapping[str, float]) -> float | None:
    """The mean of the labels' ``values`` under their probabilities, as far as they are listed; None
    where a stored response holds no readable label."""
    logprobs = label_logprobs(response, tuple(values))
    if logprobs is None:
        return None
    # Divided by the largest first, so that nothing underflows.
    weights = [math.exp(logprob - max(logprobs)) for logprob in logprobs]
    weighted = sum(w * value for w, value in zip(weights, values.values(), strict=True))
    # Rounding leaves no mean outside of its values.
    lowest, highest = min(values.values()), max(values.values())
    return min(max(weighted / sum(weights), lowest), highest)


def read_from(response: Mapping[str, Any], labels: Sequence[str]) -> str:
    """``logprobs`` where a label is the likeliest of them, else ``text``, which gives whole labels
    alone."""
    top = response.get("top_logprobs") or []
    likeliest = max(top, key=lambda entry: entry[1], default=("", 0.0))[0].strip()
    return "logprobs" if likeliest in labels else "text"


def tokens_of(usage: Any, most_prompt: int, most_answer: int) -> tuple[int, int] | None:
    """(prompt tokens, answer tokens) as a server counted them; None where it says none, or numbers
    that cannot be, such as negative ones."""
    if not isinstance(usage, dict):
        return None
    prompt, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (prompt, answer))
    if not whole or not 0 < prompt <= most_prompt or not 0 <= answer <= most_answer:
        return None
    return prompt, answer


def fault_of(status: int, content: bytes | Mapping[str, Any]) -> Fault:
    """The error in an answer, in one of the forms that servers have; ``status`` 0: the error says
    it itself."""
    try:
        body = read_json(content) if isinstance(content, bytes) else content
    except NoAnswer:
        body = text_of(content)
    error = body.get("error", body) if isinstance(body, Mapping) else body
    fields = error if isinstance(error, Mapping) else {"message": error}
    code, parameter = fields.get("code"), fields.get("param")
    of_status = status > 0
    if not of_status:
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
    message = fields.get("message") or fields.get("detail") or error
    if isinstance(message, list):  # FastAPI's, whose "input" is the prompt once more
        parts = [part for part in message if isinstance(part, Mapping) and "msg" in part]
        message = "; ".join(f"{part.get('loc')}: {part['msg']}" for part in parts) or message
    texts = [value if isinstance(value, str) else "" for value in (code, parameter)]
    code, parameter = (safe(text, limit=60) for text in texts)
    return Fault(status, code, parameter, safe(str(message), limit=400), of_status)


def setting_that_mends(fault: Fault, request: Request) -> str | None:
    """The setting and its value that mend it where the server refuses a parameter that every
    request has; None where it refuses something else, such as this one prompt."""
    text = fault.message
    if fault.status not in (400, 403, 422) or _CONTEXT.search(f"{fault.code} {text}"):
        return None
    named = {name for name in request if re.search(rf"\b{name}\b", text)}
    if fault.parameter:
        named = {fault.parameter} & {*request}
    limits = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
    for name in named & {*limits}:
        if re.search(r"below minimum|at least", text):
            return "max_tokens=<more>"
        if re.search(r"too large|above maximum|at most", text):
            return "max_tokens=<less>"
        if _REFUSED_PARAMETER.search(text):
            return f"max_tokens_name={limits[name]}"
    if not _REFUSED_PARAMETER.search(text):
        return None
    if "temperature" in named:
        return "temperature=null"
    return "logprobs=false" if named & {"logprobs", "top_logprobs"} else None


def of_fault(fault: Fault) -> NoVerdict:
    """An error that leaves one question without a verdict, for good or until it is asked again."""
    if re.search(r"output limit was reached", fault.message):
        return NoVerdict("length", f"{fault}; raise max_tokens", final=True)
    if _FILTER.search(f"{fault.code} {fault.message}"):
        return NoVerdict("content_filter", str(fault), final=True)
    if may_pass(fault.status):
        return NoVerdict(f"http_{fault.status}", str(fault))
    return NoVerdict("refused", f"refused for this pair ({fault})", final=True)
