"""Sampled tokens go in, the texts that roles read come out: one rule for every engine."""

import re
from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase


def check_stop_strings(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Raises ValueError for one that no completion can hold."""
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if not text or text not in tokenizer.decode(ids):
            raise ValueError(
                f"the stop string {text!r} can never occur: the tokenizer cannot write it; take"
                " another one"
            )


def completion_texts(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    stop_ids: Collection[int],
    stop_strings: Sequence[str],
) -> list[str]:
    """The text of each row of tokens: without its end token, other special tokens visible, up to
    the first stop string."""
    bodies = [row[:-1] if row[-1] in stop_ids else row for row in rows]
    texts = tokenizer.batch_decode(bodies, skip_special_tokens=False)
    if stop_strings:
        first = re.compile("|".join(map(re.escape, stop_strings)))
        texts = [first.split(text, maxsplit=1)[0] for text in texts]
    return texts
