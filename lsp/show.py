"""``python -m lsp.show RUN [--step 120]``: one step's plays in the terminal, over ssh too."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

from lsp.errors import RunError
from lsp.report.game import PlayedAnswer, PlayedQuery, read_index, read_plays
from lsp.report.page import is_valid
from lsp.report.record import Record, read_record
from lsp.run.folder import find_run
from lsp.tools.text import visible


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m lsp.show", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder or id")
    parser.add_argument("--step", type=int, help="which step; the last one recorded unless told")
    parser.add_argument("--filter", default="", help="only queries that hold this, or an answer")
    parser.add_argument("--answers", type=int, default=2, help="answers of a query, best first")
    parser.add_argument("--runs-root", default="outputs", help="where run ids are looked up")
    options = parser.parse_args(arguments)
    try:
        record = read_record(find_run(options.run, options.runs_root))
        width = shutil.get_terminal_size().columns
        lines = show(record, options.step, options.filter, options.answers, width)
    except RunError as error:
        sys.exit(f"error: {error}")
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # `| head` has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(record: Record, step: int | None, wanted: str, answers: int, width: int) -> list[str]:
    """Lines of at most ``width`` columns, but for words that are longer. ``wanted``: only queries
    that hold it, or have an answer that does. Raises RunError for a step that is not there."""
    step = record.steps[-1] if step is None else step
    if step not in record.steps:
        raise RunError(
            f"{record.folder} has no step {step}; it has {record.steps[0]} to {record.steps[-1]}"
        )
    asked = read_index(record.folder, None).asked
    queries = read_plays(record.folder, step, is_valid(record), asked)
    found = [query for query in queries if _holds(query, wanted.lower())]
    lines = [
        f"{record.run['id']}, step {step} of {record.settings['num_steps']}:"
        f" {len(found)} of {len(queries)} queries, the Challenger's best first"
    ]
    for query in found:
        lines += ["", *_query_lines(query, width)]
        for answer in query.answers[:answers]:
            lines += _answer_lines(answer, width)
        if len(query.answers) > answers:
            lines.append(f"    … and {len(query.answers) - answers} more answers")
    return lines


def _holds(query: PlayedQuery, wanted: str) -> bool:
    texts = [query.text, *(answer.text for answer in query.answers)]
    return any(wanted in text.lower() for text in texts)


def _query_lines(query: PlayedQuery, width: int) -> list[str]:
    facts = [f"V {_number(query.value)}", f"V_Q {_number(query.quality, 2)}"]
    if query.advantage is not None:
        facts.append(f"advantage {query.advantage:+.3f}")
    if not query.valid:
        facts.append("not legal" if query.finish == "stop" else f"not played: {query.finish}")
    if query.same_step > 1:
        facts.append(f"{query.same_step} times in this step")
    if query.first_step is not None and query.first_step < query.step:
        facts.append(f"asked before, in step {query.first_step}")
    return [*_wrapped(query.text, "? ", width), f"  {'  '.join(facts)}"]


def _answer_lines(answer: PlayedAnswer, width: int) -> list[str]:
    cut = "" if answer.finish == "stop" else "  cut at the limit"
    facts = f"R {answer.reward:.3f}  R_Q {_number(answer.quality, 2)}"
    facts += f"  advantage {answer.advantage:+.3f}  {answer.tokens} tokens{cut}"
    return [*_wrapped(answer.text, "  > ", width), f"    {facts}"]


def _wrapped(text: str, mark: str, width: int) -> list[str]:
    """The text's own lines, folded; ``mark`` before the first."""
    lines = []
    for line in visible(text, 4_000).splitlines() or ["(empty)"]:
        indent = mark if not lines else " " * len(mark)
        lines += textwrap.wrap(
            line, max(20, width), initial_indent=indent, subsequent_indent=" " * len(mark)
        ) or [indent]
    return lines


def _number(value: float | None, digits: int = 3) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main(sys.argv[1:])
