"""The command line of ``python -m eval`` goes in, settings or every mistake at once come out."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from eval.contracts import JudgeSettings, MeasurementSettings
from lsp.errors import ConfigError, Problem
from lsp.rollout.settings import address_problems
from lsp.run.commands import path_word
from lsp.settings.command import is_name
from lsp.settings.compose import CONF, compose_as
from lsp.settings.rules import secret_problems
from lsp.settings.schema import PLUGGABLE, Consent, Plain, setting, settings

EVALUATE = CONF / "evaluate"


@settings
class EvaluateConfig:
    """Whose answers are judged, on what, by whom."""

    run: str | None = setting("whose answers: a run, a model or a file of answers")
    baseline: str | None = setting("against whose; null: the run's base model")
    control: bool = setting("judge the baseline against a second sample of itself")
    benchmark: Annotated[MeasurementSettings, PLUGGABLE] = setting("what is asked")
    judge: Annotated[JudgeSettings, PLUGGABLE] = setting("who compares answers")
    first: int | None = setting(
        "the first so many of the benchmark's questions; null: all", ge=1, le=10_000_000
    )
    runs_root: str = setting("where runs are looked for, and answers and verdicts kept")
    dry_run: bool = setting("print calls, tokens and dollars, and stop")
    tie_rule: Literal["half", "loss", "drop"] = setting("of the discrete rate's ties")
    dtype: Literal["float32", "bfloat16"] = setting("of the weights that answer")
    device: str = setting("where they compute: auto, cpu or cuda")
    date_string: str | None = setting("the date in chat templates; null: their own")
    template_kwargs: Plain = setting(
        "what chat templates are told beside the conversation, enable_thinking say"
    )
    trust_remote_code: Consent = setting("run Python files that came with a model")
    max_rows: int = setting("rows decoded at once", ge=1, le=65_536)
    url: str | None = setting(
        "a vLLM server that writes the answers with the weights that it is given"
        " (docs/engines.md), http://host:port; null: this process"
    )


def read_settings(arguments: Sequence[str]) -> EvaluateConfig:
    """The settings of a command line, or one ConfigError with every problem."""
    return compose_as(EvaluateConfig, EVALUATE, in_todays_words(arguments), evaluate_rules)


def in_todays_words(arguments: Sequence[str]) -> list[str]:
    """``eval=…`` and ``eval.<key>=…``, another spelling, with ``benchmark``; said on stderr. Raises
    ConfigError where both spellings name a setting, with other values."""
    # A run is named by a word alone too, as other commands name it.
    arguments = [path_word("run", Path(t)) if is_name(t) else t for t in arguments]
    words = [re.sub(r"^([+~]*)eval(?=[=.]|$)", r"\1benchmark", text) for text in arguments]
    if changed := [pair for pair in zip(arguments, words, strict=True) if pair[0] != pair[1]]:
        olds, news = map(" ".join, zip(*changed, strict=True))
        print(f"{olds} is read as {news}", file=sys.stderr)
    given: dict[str, tuple[str, str]] = {}
    problems = []
    for pair in zip(arguments, words, strict=True):
        earlier = given.setdefault(pair[1].partition("=")[0], pair)
        spellings = {text.lstrip("+~").startswith("eval") for text in (pair[0], earlier[0])}
        if earlier[1] != pair[1] and len(spellings) == 2:
            reason = "name one setting, with two values"
            both = f"{earlier[0]} and {pair[0]}"
            problems.append(Problem(both, None, reason, "give one of them"))
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(words)) if changed else words


def evaluate_rules(config: EvaluateConfig) -> list[Problem]:
    """Every problem between settings that are each right by themselves."""
    problems = secret_problems(config)
    benchmark, measures = config.benchmark, config.benchmark.measures
    if measures == "judge":
        reason, fix = (
            f"is not {benchmark.name}'s",
            "leave it out: the answers are those of benchmark.data",
        )
        problems += _given(config, ("run", "baseline", "control", "first"), reason, fix)
    elif config.run is None:
        fix = "give run=<run folder or id, model folder, Hub id, or file of answers>"
        problems.append(Problem("run", None, "is missing", fix))
    if measures == "answers":
        problems += _given(
            config, ("control",), "compares by a judge", f"leave it out: {benchmark.name} has none"
        )
    if measures == "judge" and not config.judge.chat:
        reason = f"benchmark={benchmark.name} measures chat judges"
        problems.append(Problem("judge", None, reason, "choose judge=gpt4o or judge=compatible"))
    if measures == "answers" and config.judge.chat:
        reason = f"benchmark={benchmark.name} asks no judge"
        problems.append(Problem("judge", None, reason, "leave it out"))
    if config.url is not None:
        problems += [Problem("url", None, *problem) for problem in address_problems(config.url)]
    for key, part in (("benchmark", config.benchmark), ("judge", config.judge)):
        problems += [Problem(key, None, *problem) for problem in part.problems(config)]
    return problems


def _given(config: EvaluateConfig, keys: Sequence[str], reason: str, fix: str) -> list[Problem]:
    """A problem of each setting that is given and does not belong here."""
    values = ((key, getattr(config, key)) for key in keys)
    return [Problem(key, value, reason, fix) for key, value in values if value]
