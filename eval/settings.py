"""The command line of ``python -m eval`` goes in, settings or every mistake at once come out."""

import re
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from eval.contracts import JudgeSettings, MeasurementSettings
from lsp.errors import Problem
from lsp.settings.compose import CONF, compose_as
from lsp.settings.schema import PLUGGABLE, Consent, settings

EVALUATE = CONF / "evaluate"


@settings
class EvaluateConfig:
    """Whose answers are judged, on what, by whom."""

    run: str | None = Field(description="whose answers: a run, a model or a file of answers")
    baseline: str | None = Field(description="against whose; null: the run's base model")
    control: bool = Field(description="judge the baseline against a second sample of itself")
    benchmark: Annotated[MeasurementSettings, PLUGGABLE] = Field(description="what is asked")
    judge: Annotated[JudgeSettings, PLUGGABLE] = Field(description="who compares answers")
    runs_root: str = Field(description="where runs are looked for, and answers and verdicts kept")
    dry_run: bool = Field(description="print calls, tokens and dollars, and stop")
    tie_rule: Literal["half", "loss", "drop"] = Field(description="of the discrete rate's ties")
    dtype: Literal["float32", "bfloat16"] = Field(description="of the weights that answer")
    device: str = Field(description="where they compute: auto, cpu or cuda")
    date_string: str | None = Field(description="the date in chat templates; null: their own")
    trust_remote_code: Consent = Field(description="run Python files that came with a model")
    max_rows: int = Field(ge=1, le=65_536, description="rows decoded at once")


def read_settings(arguments: Sequence[str]) -> EvaluateConfig:
    """The settings of a command line, or one ConfigError with every problem."""
    return compose_as(EvaluateConfig, EVALUATE, in_todays_words(arguments), evaluate_rules)


def in_todays_words(arguments: Sequence[str]) -> list[str]:
    """``eval=…`` and ``eval.<key>=…``, an earlier spelling, with ``benchmark`` instead; said on
    stderr."""
    words = [re.sub(r"^([+~]*)eval(?=[=.]|$)", r"\1benchmark", text) for text in arguments]
    changed = [(old, new) for old, new in zip(arguments, words, strict=True) if old != new]
    if changed:
        olds, news = (" ".join(texts) for texts in zip(*changed, strict=True))
        print(f"{olds} is read as {news}", file=sys.stderr)
    return words


def evaluate_rules(config: EvaluateConfig) -> list[Problem]:
    """Every problem between settings that are each right by themselves."""
    problems = []
    if config.benchmark.measures == "judge":
        fix = "leave it out: the answers are those of benchmark.data"
        problems += [
            Problem(key, getattr(config, key), f"is not {config.benchmark.name}'s", fix)
            for key in ("run", "baseline", "control")
            if getattr(config, key)
        ]
        if not config.judge.chat:
            reason = f"benchmark={config.benchmark.name} measures chat judges"
            problems.append(
                Problem("judge", None, reason, "choose judge=gpt4o or judge=compatible")
            )
    elif config.run is None:
        fix = "give run=<run folder or id, model folder, Hub id, or file of answers>"
        problems.append(Problem("run", None, "is missing", fix))
    for key, part in (("benchmark", config.benchmark), ("judge", config.judge)):
        problems += [Problem(key, None, *problem) for problem in part.problems(config)]
    return problems
