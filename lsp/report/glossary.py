"""The words of a report: a text goes in, the same text comes out with each technical term a link
to its one sentence, the first time that a section uses it. No other place explains a term.
"""

import re

from markupsafe import Markup, escape

from lsp.tools.text import visible

GLOSSARY = {
    "Challenger": "The model in the role that writes the queries: it earns by asking what is"
    " answered badly.",
    "Solver": "The model in the role that answers the queries.",
    "base": "The model as it was before training.",
    "reference": "The model that training is not to move too far from: the base, kept as it was.",
    "R": "The external reward of one answer, by a rule or a model outside the game.",
    "R_Q": "The self-reward, 0 to 7: how good the model itself, as a judge, finds a query with its"
    " answer.",
    "V": "The mean R of the answers to one query: high where the Solver does well.",
    "V_Q": "The mean R_Q of the answers to one query.",
    "advantage": "How much more a query or an answer earned than those it is compared with in its"
    " step: what lies above zero becomes likelier.",
    "KL": "How far the trained model has moved from the reference: 0 where both write alike (k2 is"
    " one way to estimate it).",
    "beta": "The weight of KL against reward: the higher, the closer the model stays to the"
    " reference.",
    "entropy": "How open the choice of a token is, in nats: 0 where the model always writes the"
    " same.",
    "token": "The piece of text that a model reads and writes at once: a word, a part of one or a"
    " letter.",
    "cut at the limit": "Ended because a text may be no longer, and not by itself.",
    "step": "One round of the game: queries, answers, rewards and one update of the weights.",
    "seed": "The number that all random draws of a run follow from.",
    "held-out": "Never trained on.",
    "test split": "Held-out prompts that are measured once, at the end of a run.",
    "dev split": "Other held-out prompts, measured while a run goes on.",
    "win rate": "The share of prompts on which the trained model's answer is better than the"
    " base's, a tie counted as half.",
    "greedy": "By the likeliest token each time, without chance.",
    "exact accuracy": "The probability that the model gives the right answer, computed and not"
    " sampled; every task and length weighs the same.",
    "95 % interval": "Made so that 95 of 100 such intervals hold the true value.",
    "legal query": "One that the world knows how to answer and check.",
    "played": "Of a query: it ended by itself, so that it was answered.",
    "distinct": "Different in text from the step's other queries.",
    "near duplicate": "A query that shares nearly all of its text with one of an earlier step.",
    "kind": "What a world sorts its queries by, such as the task or the length.",
    "self-score": "What the model says as its own judge, which R_Q is read from.",
    "unasked code": "Code in an answer to a query that asks for none.",
    "repetition": "Runs of three words that stood in the same answer before.",
    "reward hacking": "Reward that rises while the quality of what is said falls.",
    "gradient norm": "How hard one update would pull at the weights, before it is limited.",
    "true rubric": "What R_Q would be if the judge made no mistake: the world's own score.",
    "best response": "The way to play that earns a player most while the other stays as it is.",
    "gap": "What a player's best response would earn more than the player does.",
    "NashConv": "Both players' gaps added up: 0 where neither could gain by playing otherwise.",
    "effective support": "How many legal queries the Challenger would choose among if it asked all"
    " of them equally often.",
    "coverage": "How evenly the Challenger asks every task at every length: 1 if all alike.",
    "argument length": "How many letters the text has that a pocket task works on.",
    "predicted": "Computed from the base alone, for players that have learnt all they can.",
    "cross-play": "Challengers of some steps against Solvers of other steps.",
}
"""Term -> what it means, for who has read nothing else."""


def _pattern(term: str) -> str:
    """The term as a word, also with a capital at its beginning, and of several things."""
    words = term.replace("-", " ").replace(" ", "[ -]")
    if term[0].islower():
        words = f"[{term[0].upper()}{term[0]}]{words[1:]}"
    words = f"{words[:-1]}(?:y|ies)" if term.endswith("query") else f"{words}s?"
    return rf"(?<![\w&#]){words}(?!\w)"


LONGEST_FIRST = sorted(GLOSSARY, key=len, reverse=True)
TERMS = re.compile(
    r"<code>.*?</code>|<a\b.*?</a>|<[^>]*>|" + "|".join(f"({_pattern(t)})" for t in LONGEST_FIRST),
    re.DOTALL,
)
"""A term, in the group of its place in ``LONGEST_FIRST``; or what is no text, or is left alone."""


class Terms:
    """Marks the terms of one page. ``used``: those that it has marked, whose entries the page has
    to hold."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self._in_section: set[str] = set()

    def section(self) -> str:
        """A section begins, in which each term is new again. Returns nothing to be seen."""
        self._in_section = set()
        return ""

    def mark(self, text: object) -> Markup:
        """Markup stays what it is but for its terms; any other text is made visible and escaped."""
        safe = text if isinstance(text, Markup) else escape(visible(str(text)))
        return Markup(TERMS.sub(self._link, safe))

    def _link(self, match: re.Match[str]) -> str:
        term = LONGEST_FIRST[match.lastindex - 1] if match.lastindex else None
        if term is None or term in self._in_section:
            return match.group()
        self._in_section.add(term)
        self.used.add(term)
        name = anchor(term)
        return f'<a class="term" href="#{name}" aria-describedby="{name}">{match.group()}</a>'

    def entries(self) -> list[tuple[str, str, str]]:
        """(anchor, term, sentence) of what was used, in the order of the glossary."""
        return [(anchor(term), term, GLOSSARY[term]) for term in GLOSSARY if term in self.used]


def anchor(term: str) -> str:
    return "term-" + re.sub(r"\W+", "-", term)
