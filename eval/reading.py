"""A judge's chat completion goes in, what is kept of it and the preference in it come out."""

import math
from typing import Any

import numpy as np

from eval.template import FIRST, SECOND
from eval.win_rate import label_preference


def response_of(answer: Any) -> dict[str, Any]:
    """What is kept of a chat completion. Raises ValueError, TypeError, AttributeError or
    IndexError for one of another shape."""
    choice = answer.choices[0]
    text = choice.message.content
    if not isinstance(text, str | None):
        raise TypeError("content is no text")
    listed = choice.logprobs.content[0].top_logprobs if choice.logprobs else []
    top = [[entry.token, entry.logprob] for entry in listed]
    for token, logprob in top:
        number = isinstance(logprob, int | float) and not math.isnan(logprob) and logprob <= 1e-3
        if not isinstance(token, str) or not number:
            raise ValueError(f"log-prob {logprob!r} of {token!r}")
    top = [entry for entry in top if entry[1] > -math.inf]
    return {"text": text or "", "top_logprobs": top}


def preference_of(response: dict[str, Any], model_first: bool) -> float | None:
    """Preference in [1, 2] from a stored response; None where it holds no readable label.

    With log-probs of the first token, where a label is the likeliest: ``label_preference`` of the
    two, each with and without blanks around it. Else the label that the text is: a label that is
    only one of the unlikely tokens behind "I" or "Both" is no verdict.
    """
    by_label: dict[str, list[float]] = {FIRST: [], SECOND: []}
    top = response.get("top_logprobs") or []
    likeliest = max(top, key=lambda entry: entry[1], default=("", 0.0))[0].strip()
    if likeliest in by_label:
        for token, logprob in top:
            if token.strip() in by_label:
                by_label[token.strip()].append(logprob)
        # log of each label's summed probabilities, -inf of none; nothing underflows.
        of_m, of_M = (float(np.logaddexp.reduce(logprobs)) for logprobs in by_label.values())
        return label_preference(of_m, of_M, switched=model_first)
    label = (response.get("text") or "").strip()
    if label not in by_label:
        return None
    return 2.0 if (label == FIRST) == model_first else 1.0
