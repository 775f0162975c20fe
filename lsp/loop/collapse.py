"""Collapse seen while it happens: a step's queries and answers go in, measures and alarms come out.

Repeats inside one step can fall while repeats across steps rise (R-Diverse, arXiv 2602.13103), so
both are measured. Memory is bounded: of the last ``memory`` queries a MinHash signature each is
kept (A. Broder, 1997), ``HASHES`` numbers of 4 bytes, and nothing else.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lsp.contracts import World
from lsp.queries.diversity import repetition
from lsp.settings.config import CollapseConfig
from lsp.types import Play, Query

HASHES = 32
SHINGLE = 4
_PRIME = (1 << 31) - 1
_GENERATOR = np.random.default_rng(20250907)
_SCALE = _GENERATOR.integers(1, _PRIME, HASHES, dtype=np.uint64)
_SHIFT = _GENERATOR.integers(0, _PRIME, HASHES, dtype=np.uint64)

CODE = re.compile(
    r"```|^\s*(def|class|import|from|return|public|static|#include|function|const|let|var)\b.*"
    r"[:;({]|\bprint\(|[;{}]\s*$",
    re.MULTILINE,
)
ASKS_FOR_CODE = re.compile(
    r"\b(code|coding|program\w*|script|function|algorithm|implement\w*|class|sql|query|regex"
    r"|html|css|json|python|java\w*|c\+\+|rust|golang|bash|shell)\b",
    re.IGNORECASE,
)


def signature(text: str) -> np.ndarray:
    """MinHash over the text's character 4-grams, [HASHES] uint32; equal places estimate the
    Jaccard similarity of two texts' 4-gram sets."""
    padded = f"\x02{text.strip().lower()}\x03"
    grams = {padded[i : i + SHINGLE] for i in range(max(1, len(padded) - SHINGLE + 1))}
    codes = np.array([zlib.crc32(gram.encode("utf-8", "replace")) for gram in grams], np.uint64)
    hashed = (codes[:, None] % _PRIME * _SCALE + _SHIFT) % _PRIME
    return hashed.min(axis=0).astype(np.uint32)


def distinct_ngram_frac(rows: Sequence[Sequence[int]], n: int = 2) -> float:
    """Distinct-n (Li et al., arXiv 1510.03055) over token ids: different n-grams over all."""
    grams = [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def unasked_code_frac(queries: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Share of answers that look like code among those to queries that ask for none, or 0."""
    plain = [
        answer
        for query, group in zip(queries, answers, strict=True)
        if not ASKS_FOR_CODE.search(query)
        for answer in group
    ]
    return sum(bool(CODE.search(answer)) for answer in plain) / len(plain) if plain else 0.0


@dataclass
class Trend:
    """A metric's mean over its first ``window`` values, and a moving mean of the same length."""

    window: int
    first: float = 0.0
    recent: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        if self.count <= self.window:
            self.first += (value - self.first) / self.count
            self.recent = self.first
        else:
            self.recent += (value - self.recent) / self.window

    @property
    def change(self) -> float:
        return self.recent - self.first


class CollapseDetector:
    """Fed every step; gives metrics, and alarms the first time that a threshold is crossed."""

    def __init__(self, settings: CollapseConfig, world: World):
        self.settings, self.world = settings, world
        # Kinds that the world has whatever was asked (the pocket world's families).
        fixed = (k for k in world.kinds(()) if not k.ordered and len(k.names) > 1)
        self.kinds = next(fixed, None)
        self.signatures = np.zeros((0, HASHES), np.uint32)
        self.trends: dict[str, Trend] = {}
        self.raised: set[str] = set()

    def step(
        self, queries: Sequence[Query], play: Play, metrics: dict[str, float]
    ) -> tuple[dict[str, float], list[str]]:
        """(metrics under ``collapse/``, new alarms)."""
        texts = [query.text for query in play.queries]
        answers = [[answer.text for answer in group] for group in play.answers]
        values = {"collapse/unasked_code_frac": unasked_code_frac(texts, answers)}
        if answers:
            said = [answer.ids for group in play.answers for answer in group]
            values["collapse/answer_distinct_2"] = distinct_ngram_frac(said)
            repeated = [repetition(text) for group in answers for text in group]
            values["collapse/answer_repetition"] = sum(repeated) / len(repeated)
        written = [query for query in queries if query.completion is not None]
        if written:
            ids = [query.completion.ids for query in written]
            values["collapse/near_duplicate_frac"] = self._near_duplicates(written)
            values["collapse/distinct_2"] = distinct_ngram_frac(ids)
            legal = [query.text for query in written if self.world.is_legal(query.text)]
            if self.kinds and legal:
                (_, most), *_ = Counter(map(self.kinds.kind_of, legal)).most_common(1)
                values["collapse/largest_kind_frac"] = most / len(legal)
        return values, self._alarms({**metrics, **values}, bool(written))

    def _near_duplicates(self, queries: Sequence[Query]) -> float:
        """Share of queries that resemble one of an earlier step; then remembers these."""
        new = np.stack([signature(query.text) for query in queries])
        closest = np.array([(self.signatures == row).mean(axis=1).max(initial=0) for row in new])
        self.signatures = np.concatenate([self.signatures, new])[-self.settings.memory :]
        return float((closest >= self.settings.similarity).mean())

    def _alarms(self, metrics: dict[str, float], challenger_plays: bool) -> list[str]:
        settings = self.settings
        lows = {
            "rollout/distinct_query_frac": settings.min_distinct_query_frac,
            "rollout/played_query_frac": settings.min_played_query_frac,
            "entropy/challenger": settings.min_challenger_entropy,
        }
        highs = {
            "quality/unparsed_frac": settings.max_unparsed_frac,
            "collapse/unasked_code_frac": settings.max_unasked_code_frac,
            "collapse/answer_repetition": settings.max_answer_repetition,
            "collapse/near_duplicate_frac": settings.max_near_duplicate_frac,
            "collapse/largest_kind_frac": settings.max_largest_kind_frac,
        }
        for key in ("quality/mean", "reward/external/mean", *lows, *highs):
            if math.isfinite(metrics.get(key, math.nan)):
                self.trends.setdefault(key, Trend(settings.window)).add(metrics[key])
        if not challenger_plays:
            lows = {}
            del highs["collapse/near_duplicate_frac"], highs["collapse/largest_kind_frac"]
        alarms = {
            key: f"{key} {verb} to {trend.recent:.3g} (limit {limit:g})"
            for limits, sign, verb in ((lows, 1, "fell"), (highs, -1, "rose"))
            for key, limit in limits.items()
            if (trend := self._ready(key)) and sign * trend.recent < sign * limit
        }
        alarms |= self._hacking(challenger_plays)
        new = [text for key, text in alarms.items() if key not in self.raised]
        self.raised |= set(alarms)
        return new

    def _ready(self, key: str) -> Trend | None:
        """The trend of a metric that has been measured for longer than its window."""
        trend = self.trends.get(key)
        return trend if trend and trend.count > self.settings.window else None

    def _hacking(self, challenger_plays: bool) -> dict[str, str]:
        """External reward up, quality down; the Challenger's reward is minus the Solver's."""
        quality, reward = self._ready("quality/mean"), self._ready("reward/external/mean")
        if quality is None or reward is None or -quality.change < self.settings.max_quality_drop:
            return {}
        gains = {"Solver": reward.change}
        if challenger_plays:
            gains["Challenger"] = -reward.change
        fall = f"quality fell from {quality.first:.2f} to {quality.recent:.2f}: reward hacking"
        return {
            f"hacking/{role}": f"the {role}'s external reward rose by {gain:.3g} while {fall}"
            for role, gain in gains.items()
            if gain > self.settings.min_reward_gain
        }

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on exactly; plain values and one array."""
        return {
            "signatures": self.signatures,
            "trends": {key: vars(trend) for key, trend in self.trends.items()},
            "raised": sorted(self.raised),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.signatures = np.asarray(state["signatures"], np.uint32)
        self.trends = {key: Trend(**trend) for key, trend in state["trends"].items()}
        self.raised = set(state["raised"])
