"""An external reward from a preference model: a sequence classifier with one output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from lsp.config import ModelShape, local_model_folder
from lsp.schema import number


@dataclass(frozen=True)
class ClassifierReward:
    """R is the classifier's logit of (query, answer) under its own chat template: unbounded.

    ``max_tokens``: padded tokens a pass. ``max_length``: a longer conversation is cut at its
    end and counted in ``truncated``. ``shape``: of a Hub's model, for the plan.
    """

    name: str
    revision: str | None
    dtype: Literal["float32", "bfloat16"]
    date_string: str | None
    max_length: int = number(minimum=8)
    max_tokens: int = number(minimum=8)
    shape: ModelShape | None = None
    range: ClassVar[tuple[float, float] | None] = None

    def build(self, device) -> ClassifierScorer:
        return ClassifierScorer(self, device)


class ClassifierScorer:
    """The loaded classifier; call it with queries and answers of equal number."""

    def __init__(self, settings: ClassifierReward, device):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from lsp.prompts import ChatFormat

        folder = local_model_folder(settings.name)
        name = str(folder or settings.name)
        revision = None if folder else settings.revision
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                name,
                revision=revision,
                dtype=getattr(torch, settings.dtype),
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise ValueError(
                f"the reward model {name!r} cannot be loaded: {type(error).__name__}: {error}\n"
                "Give reward.name=<a sequence classifier: folder or Hub id>"
            ) from error
        if report["missing_keys"]:
            raise ValueError(
                f"{name!r} is no reward model: its files hold no {sorted(report['missing_keys'])}"
                " (a causal language model has none); give reward.name=<a sequence classifier>"
            )
        if model.config.num_labels != 1:
            raise ValueError(
                f"the reward model {name!r} has {model.config.num_labels} outputs, and a reward is"
                " one number; give reward.name=<a classifier with one output>"
            )
        self.settings = settings
        self.chat = ChatFormat(tokenizer, settings.date_string)
        self.model = model.to(device).eval()
        self.truncated = 0

    def measures(self) -> dict[str, float]:
        """``truncated``: conversations cut so far, also before a resume."""
        return {"truncated": self.truncated}

    def restore(self, measures: Mapping[str, float]) -> None:
        self.truncated = int(measures["truncated"])

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        import torch

        pairs = dict.fromkeys(zip(queries, answers, strict=True))
        rows = self.chat.encode([[("user", q), ("assistant", a)] for q, a in pairs])
        limit = self.settings.max_length
        self.truncated += sum(len(row) > limit for row in rows)
        rows = [row[:limit] for row in rows]
        # The model scores the last token that is not its padding id. An id that stands in no row
        # is padding for certain, also where the configured one (or none) can end a row.
        used = {token for row in rows for token in row}
        pad_id = next(i for i in range(self.model.config.vocab_size) if i not in used)
        self.model.config.pad_token_id = pad_id
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        scores = [0.0] * len(rows)
        start = 0
        while start < len(order):
            width = len(rows[order[start]])
            chosen = order[start : start + max(1, self.settings.max_tokens // width)]
            ids = torch.full((len(chosen), width), pad_id)
            mask = torch.zeros(len(chosen), width, dtype=torch.long)
            for i, index in enumerate(chosen):
                ids[i, : len(rows[index])] = torch.tensor(rows[index])
                mask[i, : len(rows[index])] = 1
            device = self.model.device
            with torch.no_grad():
                logits = self.model(ids.to(device), attention_mask=mask.to(device)).logits
            for index, score in zip(chosen, logits.float().squeeze(1).tolist(), strict=True):
                scores[index] = score
            start += len(chosen)
        by_pair = dict(zip(pairs, scores, strict=True))
        return [by_pair[pair] for pair in zip(queries, answers, strict=True)]
