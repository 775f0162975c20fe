"""``lsp show RUN step=120``: a run goes in, one step's plays come out."""

import shutil
import sys
from collections.abc import Sequence

from lsp.cli.main import run
from lsp.errors import RunError
from lsp.report.game import PlayedAnswer, PlayedQuery, read_index, read_plays
from lsp.report.record import Record, read_record
from lsp.run.folder import find_run
from lsp.settings.command import consent, read_command
from lsp.settings.schema import setting, settings
from lsp.tools.text import folded, visible


@settings
class ShowSettings:
    """What is shown of a run."""

    step: int | None = setting(
        "which; null: the last one recorded", default=None, ge=0, le=10_000_000
    )
    filter: str = setting("only queries that hold this, or have an answer that does", default="")
    answers: int = setting("of a query, the best first", default=2, ge=0, le=1_000_000)
    runs_root: str = setting("where run ids are looked up", default="outputs")
    trust: tuple[str, ...] = setting(
        "a world of your own to import: trust=[world._target_=mine.World]", default=()
    )


def main(arguments: Sequence[str]) -> None:
    names, chosen = read_command(ShowSettings, arguments)
    if len(names) != 1:
        raise RunError(f"show takes one run, and these are {len(names)}: lsp show RUN step=120")
    record = read_record(find_run(names[0], chosen.runs_root), trusted=consent(chosen.trust))
    width = shutil.get_terminal_size().columns
    lines = show(record, chosen.step, chosen.filter, chosen.answers, width)
    print("\n".join(lines), flush=True)


def show(record: Record, step: int | None, wanted: str, answers: int, width: int) -> list[str]:
    """Lines of at most ``width`` columns, but for words that are longer. ``wanted``: only queries
    that hold it, or have an answer that does. Raises RunError for a step that is not there."""
    width, first, last = max(20, width), record.steps[0], record.steps[-1]
    step = last if step is None else step
    if step not in record.steps:
        raise RunError(f"{record.folder} has no step {step}; it has {first} to {last}")
    uses = read_index(record.folder, record.world, record.steps).uses
    queries = read_plays(record.folder, step, record.world, uses)
    shown = [q for q in queries if any(wanted.lower() in text.lower() for text in q.texts)]
    lines = [
        f"{record.run['id']}, step {step} of {record.settings['num_steps']}:"
        f" {len(shown)} of {len(queries)} queries, the Challenger's best first",
    ]
    for text in (record.state, *record.warnings):
        lines += folded(visible(text), width)
    for query in shown:
        lines += ["", *_query_lines(query, width)]
        for answer in query.answers[:answers]:
            lines += _answer_lines(answer, width)
        if len(query.answers) > answers:
            lines.append(f"    … and {len(query.answers) - answers} more answers")
    return lines


def _query_lines(query: PlayedQuery, width: int) -> list[str]:
    facts = [f"V {_number(query.query_value)}", f"V_Q {_number(query.query_quality, 2)}"]
    if query.challenger_advantage is not None:
        facts.append(f"advantage {query.challenger_advantage:+.3f}")
    if not query.legal:
        reason = query.query_finish_reason
        facts.append("not legal" if reason == "stop" else f"not played: {reason}")
    if query.right_answer is not None:
        facts.append(f"right answer {visible(query.right_answer)}")
    if query.same_step > 1:
        facts.append(f"{query.same_step} times in this step")
    if query.first_step is not None and query.first_step < query.step:
        facts.append(f"asked before, in step {query.first_step}")
    text = folded(visible(query.query, 4_000) or "(empty)", width, "? ")
    return [*text, f"  {'  '.join(facts)}"]


def _answer_lines(answer: PlayedAnswer, width: int) -> list[str]:
    cut = "" if answer.answer_finish_reason == "stop" else "  cut at the limit"
    facts = f"R {answer.reward:.3f}  R_Q {_number(answer.quality, 2)}"
    facts += f"  advantage {answer.solver_advantage:+.3f}  {answer.answer_tokens} tokens{cut}"
    facts += f"  × {answer.times}" * (answer.times > 1)
    facts += f"  {answer.checks}" * bool(answer.checks)
    text = folded(visible(answer.answer, 4_000) or "(empty)", width, "  > ")
    return [*text, f"    {facts}"]


def _number(value: float | None, digits: int = 3) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(run("show", sys.argv[1:]))
