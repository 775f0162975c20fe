"""``lsp show RUN step=120``: a run goes in, one step's plays come out; with ``--follow`` the short
form of each step, as the run writes it."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lsp.cli.main import run
from lsp.contracts import World
from lsp.errors import RunError
from lsp.report.game import PlayedAnswer, PlayedQuery, read_index, read_plays
from lsp.report.live import NewLines, activity, settled
from lsp.report.record import Record, evaluation_of, read_record, world_of
from lsp.run.folder import find_run, read_run, saved_tree
from lsp.settings.command import consent, read_command
from lsp.settings.schema import setting, settings
from lsp.tools.text import folded, visible
from lsp.tracking.labels import short_numbers
from lsp.tracking.reader import DamagedFile, shard

LOOK_SECONDS = 0.5
"""Between two looks at a run that is followed."""
SILENT_SECONDS = 50.0
"""After so long without a step, one line says what goes on."""


@settings
class ShowSettings:
    """What is shown of a run."""

    step: int | None = setting(
        "which; null: the last one recorded", default=None, ge=0, le=10_000_000
    )
    filter: str = setting("only queries that hold this, or have an answer that does", default="")
    answers: int = setting("of a query, the best first", default=2, ge=0, le=1_000_000)
    follow: bool = setting("each step's short form as it comes, until the run ends", default=False)
    runs_root: str = setting("where run ids are looked up", default="outputs")
    trust: tuple[str, ...] = setting(
        "a world of your own to import: trust=[world._target_=mine.World]", default=()
    )


def main(arguments: Sequence[str]) -> None:
    names, chosen = read_command(ShowSettings, arguments)
    if len(names) != 1:
        raise RunError(f"show takes one run, and these are {len(names)}: lsp show RUN step=120")
    folder, trusted = find_run(names[0], chosen.runs_root), consent(chosen.trust)
    width = shutil.get_terminal_size().columns
    if chosen.follow:
        if chosen.step is not None:
            raise RunError(
                f"step={chosen.step} is one step, and follow=true shows those that come; leave one"
                " of the two out"
            )
        try:
            follow(folder, trusted, chosen.filter, width)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{folder} was looked at, no more") from None
        return
    record = read_record(folder, trusted=trusted)
    print("\n".join(show(record, chosen.step, chosen.filter, chosen.answers, width)), flush=True)


def follow(folder: Path, trusted: Mapping[str, Any], wanted: str, width: int) -> None:
    """Print the last step that is there, then each that comes, until nobody writes to the run any
    more; last its state. ``wanted``: as of ``show``. Raises RunError where it ended before its
    first step, or its folder goes away."""
    lines, seen, said = NewLines(folder), False, time.monotonic()
    tree = settled(folder, lambda: saved_tree(folder))
    world, warning = world_of(tree.get("world"), trusted)
    if warning:
        print("\n".join(folded(visible(warning), width)), file=sys.stderr)
    while True:
        now = activity(folder)  # before the lines, so that those of a run that has ended are all
        new = lines.read()
        for line in new if seen else new[-1:]:
            if line.entries is None:
                raise DamagedFile(f"{lines.path}: {line.reason}")
            shown = step_lines(folder, world, line.entries, tree["num_steps"], wanted, width)
            print("\n".join(shown))
            said = time.monotonic()
        sys.stdout.flush()
        if not now.going:
            break
        seen = True
        if time.monotonic() - said >= SILENT_SECONDS:
            print(now.words, file=sys.stderr, flush=True)
            said = time.monotonic()
        time.sleep(LOOK_SECONDS)
    record = settled(folder, lambda: read_record(folder, world))
    print(visible(record.state))


def step_lines(
    folder: Path, world: World, line: Mapping[str, Any], planned: int, wanted: str, width: int
) -> list[str]:
    """The short form of a step whose metrics are ``line``: its numbers, then the Challenger's best
    and worst query that were played, each with its best and its worst answer, a line each."""
    step = line["step"]
    name, labels = evaluation_of(read_run(folder), [dict(line)])
    measured = [(label, line.get(f"eval/{name}/{key}")) for key, label in labels.items()]
    numbers = [f"{label} {value:.3f}" for label, value in measured[:1] if value is not None]
    numbers = "  ".join(map(visible, [*short_numbers(line), *numbers]))
    lines = [text.rstrip() for text in folded(numbers, width, f"step {step}/{planned}  ")]

    def plays() -> list[PlayedQuery]:
        return read_plays(folder, step, world) if shard(folder, step).exists() else []

    queries = settled(folder, plays)
    if unplayed := sum(not query.answers for query in queries):
        lines.append(f"  {unplayed} of {len(queries)} queries were not played")
    found = [query for query in _matching(queries, wanted) if query.answers]
    for query in found[:1] + found[1:][-1:]:
        facts = f"V {_number(query.query_value)}" + "  not legal" * (not query.legal)
        if query.right_answer is not None:
            facts += f"  right answer {visible(query.right_answer)}"
        lines.append(_one_line("  ? ", query.query, facts, width))
        answers = query.answers[:1] + query.answers[1:][-1:]
        for mark, answer in zip(("best ", "worst"), answers, strict=False):
            facts = f"R {answer.reward:.3f}  R_Q {_number(answer.quality, 2)}"
            facts += f"  × {answer.times}" * (answer.times > 1)
            lines.append(_one_line(f"    {mark} ", answer.answer, facts, width))
    return lines


def _one_line(mark: str, text: str, facts: str, width: int) -> str:
    """A text, cut where its line would not hold the facts behind it."""
    room = max(10, width - len(mark) - len(facts) - 2)
    shown = visible(text[:room], room).replace("\n", "⏎").replace("\t", " ") or "(empty)"
    shown = shown if len(text) <= room and len(shown) <= room else f"{shown[: room - 1]}…"
    return f"{mark}{shown}  {facts}"


def _matching(queries: Sequence[PlayedQuery], wanted: str) -> list[PlayedQuery]:
    return [q for q in queries if any(wanted.lower() in text.lower() for text in q.texts)]


def show(record: Record, step: int | None, wanted: str, answers: int, width: int) -> list[str]:
    """Lines of at most ``width`` columns, but for words that are longer. ``wanted``: only queries
    that hold it, or have an answer that does. Raises RunError for a step that is not there."""
    width, first, last = max(20, width), record.steps[0], record.steps[-1]
    step = last if step is None else step
    if step not in record.steps:
        raise RunError(f"{record.folder} has no step {step}; it has {first} to {last}")
    uses = read_index(record.folder, record.world, record.steps).uses
    queries = read_plays(record.folder, step, record.world, uses)
    shown = _matching(queries, wanted)
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
