"""The command line of ``python -m eval`` goes in, settings or every mistake at once come out."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from eval.contracts import JudgeSettings, MeasurementSettings
from lsp.errors import Problem
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
    """``eval=…`` and ``eval.<key>=…``, an earlier spelling, with ``benchmark``; said on stderr."""
    # A run is named by a word alone too, as other commands name it.
    arguments = [path_word("run", Path(t)) if is_name(t) else t for t in arguments]
    words = [re.sub(r"^([+~]*)eval(?=[=.]|$)", r"\1benchmark", text) for text in arguments]
    if changed := [pair for pair in zip(arguments, words, strict=True) if pair[0] != pair[1]]:
        olds, news = map(" ".join, zip(*changed, strict=True))
        print(f"{olds} is read as {news}", file=sys.stderr)
    return words


def evaluate_rules(config: EvaluateConfig) -> list[Problem]:
    """Every problem between settings that are each right by themselves."""
    problems = secret_problems(config)
    if config.benchmark.measures == "judge":
        reason = f"is not {config.benchmark.name}'s"
        fix = "leave it out: the answers are those of benchmark.data"
        for key in ("run", "baseline", "control"):
            if value := getattr(config, key):
                problems.append(Problem(key, value, reason, fix))
        if not config.judge.chat:
            reason = f"benchmark={config.benchmark.name} measures chat judges"
            fix = "choose judge=gpt4o or judge=compatible"
            problems.append(Problem("judge", None, reason, fix))
    elif config.run is None:
        fix = "give run=<run folder or id, model folder, Hub id, or file of answers>"
        problems.append(Problem("run", None, "is missing", fix))
    if config.url is not None:
        problems += [Problem("url", None, *problem) for problem in address_problems(config.url)]
    for key, part in (("benchmark", config.benchmark), ("judge", config.judge)):
        problems += [Problem(key, None, *problem) for problem in part.problems(config)]
    return problems
