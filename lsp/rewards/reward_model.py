"""An external reward from a classifier: (query, answer) pairs go in, its one output comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lsp.contracts import BuildContext, OwnModel, Reward, RewardSettings
from lsp.model.shapes import UnknownShape, shape_of
from lsp.settings.config import NO_MODEL, ModelShape, local_model_folder, may_be_hub_id
from lsp.settings.schema import Consent, Plain, setting, settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lsp.model.chat import ChatFormat
    from lsp.model.loading import ModelFiles
    from lsp.settings.config import Config

TokenRows = list[list[int]]


@settings
class ClassifierReward(RewardSettings):
    """R is the classifier's logit of (query, answer): unbounded.

    It reads them as a conversation under its own chat template; where its tokenizer has none, as a
    pair of texts, which is how DeBERTa classifiers are trained.
    """

    name: str = setting("a folder or Hub id of a classifier with one output")
    revision: str | None = setting("branch, tag or commit of a Hub id; null: main")
    trust_remote_code: Consent = setting("run Python files that came with it")
    dtype: Literal["float32", "bfloat16"] = setting("of its weights")
    date_string: str | None = setting("the day that its chat template is told")
    template_kwargs: Plain = setting(
        "what its chat template is told beside the conversation", default_factory=dict
    )
    max_length: int = setting(
        "tokens of a pair; what is longer is cut and marked truncated", ge=8, le=2**20
    )
    max_tokens: int = setting("padded tokens a pass", ge=8, le=2**30)
    shape: ModelShape | None = setting("of a Hub's model, for the plan", default=None)

    def problems(self, config: Config) -> Sequence[tuple[str, str]]:
        if local_model_folder(self.name) is not None or may_be_hub_id(self.name):
            return ()
        return [(f"reward.name {NO_MODEL}", "write a path, or <owner>/<name>")]

    def may_change(self) -> Sequence[str]:
        return ("max_tokens",)

    def own_models(self) -> Sequence[OwnModel]:
        try:
            shape, unknown = shape_of(self.name, self.shape, "reward.shape"), ""
        except UnknownShape as error:
            shape, unknown = None, str(error)
        return (OwnModel(self.dtype, self.max_length, self.max_tokens, shape, unknown),)

    def check(self, context: BuildContext) -> None:
        from lsp.model.loading import files_at_hand

        source = (self.name, self.revision, self.trust_remote_code)
        if files := files_at_hand("SequenceClassification", *source):
            refuse_unfit(self.name, files)
            chat_of(self, files.tokenizer)

    def build(self, context: BuildContext) -> ClassifierScorer:
        return ClassifierScorer(self, context.device)


def refuse_unfit(name: str, files: ModelFiles) -> None:
    """Raises ValueError for a classifier whose output is no reward of a pair of texts."""
    outputs, tokenizer = files.config.num_labels, files.tokenizer
    if outputs != 1:
        raise ValueError(
            f"the reward model {name!r} has {outputs} outputs, and a reward is one number; give"
            " reward.name=<a classifier with one output>"
        )
    of_text, of_pair = map(tokenizer.num_special_tokens_to_add, (False, True))
    if not tokenizer.chat_template and of_pair <= of_text:
        raise ValueError(
            f"the tokenizer of the reward model {name!r} has no chat template and puts nothing"
            " between a pair of texts, so query and answer cannot be told apart; give another"
            " reward.name, or save the template that it was trained with beside it"
        )


def chat_of(settings: ClassifierReward, tokenizer: PreTrainedTokenizerBase) -> ChatFormat | None:
    """Its way of encoding a conversation, where its tokenizer has a chat template."""
    from lsp.model.chat import ChatFormat

    if not tokenizer.chat_template:
        return None
    chat = ChatFormat(tokenizer, settings.date_string, settings.template_kwargs)
    chat.pieces(("user", "assistant"))  # one that refuses it says so now
    return chat


class ClassifierScorer(Reward):
    """The loaded classifier; call it with queries and answers of equal number."""

    def __init__(self, settings: ClassifierReward, device):
        from lsp.model.context import context_of
        from lsp.model.loading import ModelFiles, load_pretrained

        name, head = settings.name, "SequenceClassification"
        source = (name, settings.dtype, settings.revision, settings.trust_remote_code)
        model, tokenizer = load_pretrained(head, *source)
        refuse_unfit(name, ModelFiles(model.config, tokenizer))
        self.tokenizer, self.chat = tokenizer, chat_of(settings, tokenizer)
        self.max_tokens = settings.max_tokens
        limits = (settings.max_length, context_of(model), tokenizer.model_max_length)
        self.max_length = min(limits)
        self.device = device
        self.model = model.to(device).eval()
        self._truncated: list[float] = []

    def offload(self) -> None:
        """From now on the model is on the device only while it scores."""
        self.model.to("cpu")

    def details(self) -> dict[str, list[float]]:
        """``truncated``: 1 for each pair of the last call whose conversation was cut, else 0."""
        return {"truncated": self._truncated}

    def __call__(self, queries: Sequence[str], answers: Sequence[str]) -> list[float]:
        from lsp.model.offload import on_device

        pairs = list(dict.fromkeys(zip(queries, answers, strict=True)))
        rows, segments = self._encode(pairs)
        place = {pair: i for i, pair in enumerate(pairs)}
        places = [place[pair] for pair in zip(queries, answers, strict=True)]
        self._truncated = [float(len(rows[i]) > self.max_length) for i in places]
        rows = [row[: self.max_length] for row in rows]
        with on_device(self.model, self.device):
            scores = self._scores(rows, segments)
        return [scores[i] for i in places]

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> tuple[TokenRows, TokenRows | None]:
        """Token ids of each pair, and 0 or 1 for the first or second text where the model takes
        that; nothing in a text becomes a special token."""
        if self.chat is not None:
            return self.chat.encode([[("user", q), ("assistant", a)] for q, a in pairs]), None
        if not pairs:
            return [], None
        encoded = self.tokenizer([[self._harmless(text) for text in pair] for pair in pairs])
        return encoded["input_ids"], encoded.get("token_type_ids")

    def _harmless(self, text: str) -> str:
        """A text with a space in the spelling of each special token. (``split_special_tokens`` is
        not enough: DeBERTa's vocabulary has them as pieces of text too.)"""
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text.encode("utf-8", "replace").decode("utf-8")

    def _scores(self, rows: TokenRows, segments: TokenRows | None) -> list[float]:
        import torch

        from lsp.batch import padded
        from lsp.tools.heartbeat import at

        # A decoder scores the last token that is not its padding id. An id that stands in no row
        # is padding for certain, also where the configured one (or none) can end a row.
        used = {token for row in rows for token in row}
        pad_id = next(i for i in range(self.model.config.vocab_size) if i not in used)
        self.model.config.pad_token_id = pad_id
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        scores = [0.0] * len(rows)
        while order:
            at(f"{len(rows) - len(order)} of {len(rows)} pairs scored")
            fits = max(1, self.max_tokens // len(rows[order[0]]))
            chosen, order = order[:fits], order[fits:]
            ids, mask = padded([rows[i] for i in chosen])
            inputs = {"attention_mask": mask.long().to(self.device)}
            if segments is not None:
                segments_BT, _ = padded([segments[i][: len(rows[i])] for i in chosen])
                inputs["token_type_ids"] = segments_BT.to(self.device)
            with torch.no_grad():
                logits = self.model(ids.masked_fill(~mask, pad_id).to(self.device), **inputs).logits
            for index, score in zip(chosen, logits.float().squeeze(1).tolist(), strict=True):
                scores[index] = score
        return scores
