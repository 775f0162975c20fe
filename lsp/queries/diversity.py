"""How much a step's queries repeat each other: tokens go in, one number a query comes out, pure."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

Tokens = Sequence[int]
CLUSTER_DISTANCE = 0.5
"""1 - BLEU at which clusters are no longer joined."""


def bleu(candidate: Tokens, reference: Tokens, orders: int = 4) -> float:
    """Sentence BLEU of token n-grams of up to four (Papineni and others, 2002), 0.1 in place of a
    count of 0 (smoothing 1 of Chen and Cherry, 2014). Orders that the shorter text does not have
    are left out."""
    orders = min(orders, len(candidate), len(reference))
    if orders == 0:
        return float(list(candidate) == list(reference))
    logs = []
    for n in range(1, orders + 1):
        own, other = _ngrams(candidate, n), _ngrams(reference, n)
        matched = sum((own & other).values())
        logs.append(math.log((matched or 0.1) / sum(own.values())))
    brevity = min(0.0, 1 - len(reference) / len(candidate))
    return math.exp(brevity + sum(logs) / orders)


def cluster_shares(queries: Sequence[Tokens]) -> list[float]:
    """|C| / B of each query: the share of the step's B queries in its cluster C. Clusters by
    average linkage over 1 - BLEU (the mean of both directions), cut at CLUSTER_DISTANCE (R-Zero,
    arXiv 2508.05004). Which of two distances that are equal is joined first decides clusters, so
    queries are sorted before: their order among the step's says nothing."""
    from scipy.cluster.hierarchy import fcluster, linkage  # half a second, for this rule alone
    from scipy.spatial.distance import squareform

    count = len(queries)
    if count < 2:
        return [1.0] * count
    order = sorted(range(count), key=lambda i: tuple(queries[i]))
    distance = np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            one, other = queries[order[i]], queries[order[j]]
            distance[i, j] = distance[j, i] = 1 - (bleu(one, other) + bleu(other, one)) / 2
    cluster = fcluster(linkage(squareform(distance), "average"), CLUSTER_DISTANCE, "distance")
    sizes = Counter(cluster.tolist())
    shares = {i: sizes[k] / count for i, k in zip(order, cluster.tolist(), strict=True)}
    return [shares[i] for i in range(count)]


def novelty(queries: Sequence[Tokens]) -> list[float]:
    """1 - the largest Jaccard similarity of a query's set of token pairs with another's of the
    step; 1 for one alone. OpenSIR (arXiv 2511.00602) takes the distance of embeddings; this needs
    no model."""
    pairs = [set(_ngrams(query, min(2, len(query)))) for query in queries]
    return [
        1 - max((_jaccard(own, other) for j, other in enumerate(pairs) if j != i), default=0.0)
        for i, own in enumerate(pairs)
    ]


def repetition(text: str) -> float:
    """Share of a text's runs of three words that stood in it before; 0 of fewer than four words.
    ``[name] [name] [name] [name]``: one of two."""
    words = text.split()
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def _ngrams(tokens: Tokens, n: int) -> Counter:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)) if n else Counter()
