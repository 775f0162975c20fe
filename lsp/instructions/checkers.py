"""A constraint and an answer go in, whether the answer follows it comes out (docs/checkers.md).

The one place that knows the package of checkers: ``if-verifiable``, which holds those of IFEval
(25 kinds) and of IFBench (58). It is loaded at the first verdict, from the extra ``instructions``.
Nothing is downloaded, no verdict depends on chance, and threads may ask at once.
"""

import functools
import importlib
import logging
import random
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from lsp.errors import RunError

PACKAGE = "if_verifiable"
NLTK_DATA = {
    "ratio:stop_words": ("corpora/stopwords", "stopwords"),
    "words:start_verb": (
        "taggers/averaged_perceptron_tagger_eng",
        "averaged_perceptron_tagger_eng",
    ),
}
"""Kind -> (place, name) of the data of nltk that it needs and that no package brings."""
SEEDS = {"strict": 3, "loose": 10}
"""Of what the package draws where it takes an argument for absent (a letter that is none, an index
of 0). IFEval draws it anew in each run; with these GPT-4's published numbers come out."""
_LOCK = threading.RLock()  # the package's checkers are built one at a time: they draw


class Constraint(NamedTuple):
    """``kind`` as IFEval and IFBench name it (``punctuation:no_comma``), with the arguments that
    its checker takes; those that are None are absent."""

    kind: str
    arguments: Mapping[str, Any]


def follows(constraint: Constraint, prompt: str, answer: str, loose: bool = False) -> bool | None:
    """Whether an answer follows a constraint; one of blanks follows nothing. ``loose`` is IFEval's
    other measure: one of eight forms of the answer follows, without its first line, its last, or
    both, each also without asterisks. None where the checker raises, or cannot be built."""
    try:
        checker = _built(constraint, prompt, "loose" if loose else "strict")
        forms = _forms(answer) if loose else [answer]
        return any(form.strip() and checker.check_following(form) for form in forms)
    except RunError:
        raise
    except Exception:  # whatever a checker raises on an odd answer; callers count it
        return None


def sentence_of(constraint: Constraint) -> str:
    """The sentence that the package writes of a constraint. Raises RunError where it is none."""
    if problem := problem_of(constraint):
        raise RunError(f"{constraint.kind} with {dict(constraint.arguments)}: {problem}")
    return _built(constraint, "", "strict", sentence=True)


def problem_of(constraint: Constraint) -> str | None:
    """Why a constraint cannot be checked, with the way out; None where it can."""
    kind = constraint.kind
    if kind not in _package().checkers:
        return f"no checker knows the kind {kind!r}"
    if kind in NLTK_DATA and not _has_nltk_data(NLTK_DATA[kind][0]):
        name = NLTK_DATA[kind][1]
        return f"it needs nltk's {name}: python -m nltk.downloader {name}"
    try:
        _built(constraint, "", "strict")
    except Exception as error:  # the package's own: arguments of another kind, or of wrong types
        return f"{error}"
    return None


def unknown(kinds: Iterable[str]) -> list[str]:
    """Those that nobody here checks: no checker has that name, or data that it needs lack."""
    known = {
        kind
        for kind in _package().checkers
        if kind not in NLTK_DATA or _has_nltk_data(NLTK_DATA[kind][0])
    }
    return sorted(set(kinds) - known)


def _forms(answer: str) -> list[str]:
    """IFEval's eight forms of an answer."""
    lines = answer.split("\n")
    cuts = [lines[1:], lines[:-1], lines[1:-1]]
    forms = [answer, *("\n".join(cut).strip() for cut in cuts)]
    return forms + [form.replace("*", "") for form in forms]


def _built(constraint: Constraint, prompt: str, mode: str, sentence: bool = False) -> Any:
    """The package's checker of a constraint, or the sentence that it writes. Raises ValueError for
    an argument that lacks, and what the package raises for one that it does not take."""
    package = _package()
    given = {name: value for name, value in constraint.arguments.items() if value is not None}
    checker = package.checkers[constraint.kind](constraint.kind)
    with _LOCK:
        package.chance.seed(SEEDS[mode])
        text = checker.build_description(**given)
        taken = checker.get_instruction_args() or {}
        missing = set(checker.get_instruction_args_keys()) - set(given) - {"prompt"}
        if missing:  # the package would draw them
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if "prompt" in taken:
            text = checker.build_description(prompt=prompt)
    return text if sentence else checker


def _has_nltk_data(place: str) -> bool:
    import nltk

    try:
        nltk.data.find(place)
    except LookupError:
        return False
    return True


def _package() -> SimpleNamespace:
    """The package's checkers by kind, and the generator that they draw from."""
    with _LOCK:
        return _loaded()


@functools.cache
def _loaded() -> SimpleNamespace:
    """Raises RunError where the package is absent. Both modules of the package are given a
    generator and a logger of our own: they would draw from Python's and write to its root."""
    try:
        import langdetect
        import nltk
        import punkt  # noqa: F401
    except ImportError as error:
        problem = f"checking instructions needs the extra ({error.name} is not installed)"
        raise RunError(f"{problem}: pip install '.[instructions]'") from error
    langdetect.DetectorFactory.seed = 0
    chance, checkers = random.Random(), {}
    with tempfile.TemporaryDirectory() as folder:
        nltk.data.path.insert(0, folder)
        try:
            _write_nltk_data(Path(folder))
            nltk.sent_tokenize("")  # kept in memory from here on
            for benchmark in ("ifeval", "ifbench"):
                module = importlib.import_module(f"{PACKAGE}.{benchmark}.instructions")
                registry = importlib.import_module(f"{PACKAGE}.{benchmark}.instructions_registry")
                module.random, module.logging = chance, _quiet_logger()
                module.instructions_util._get_sentence_tokenizer()
                checkers |= registry.INSTRUCTION_DICT
        except ImportError as error:
            problem = f"checking instructions needs the extra ({error.name} is not installed)"
            raise RunError(f"{problem}: pip install '.[instructions]'") from error
        finally:
            nltk.data.path.remove(folder)
    return SimpleNamespace(checkers=checkers, chance=chance)


def _quiet_logger() -> logging.Logger:
    logger = logging.getLogger(PACKAGE)
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def _write_nltk_data(folder: Path) -> None:
    """English sentence ends, which nltk would download, from the package that holds them. Where
    the package of checkers only looks whether data are there, and else downloads, stands a folder
    without any."""
    from nltk.tokenize.punkt import PunktParameters, save_punkt_params
    from punkt.data import english

    for place in ("tokenizers/punkt_tab", "tokenizers/punkt", *dict(NLTK_DATA.values())):
        (folder / place).mkdir(mode=0o700, parents=True)
    parameters = PunktParameters()
    parameters.abbrev_types = set(english.ABBREV_TYPES)
    parameters.collocations = set(english.COLLOCATIONS)
    parameters.sent_starters = set(english.SENT_STARTERS)
    parameters.ortho_context.update(english.ORTHO_CONTEXT)
    save_punkt_params(parameters, dir=str(folder / "tokenizers" / "punkt_tab" / "english"))
