"""``lsp report RUN [RUN …] [out=FILE]``: the report of a run, or the comparison of several."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lsp.cli.main import run
from lsp.errors import RunError
from lsp.run.folder import find_run
from lsp.settings.command import consent, read_command
from lsp.settings.schema import setting, settings
from lsp.tools.heartbeat import Heartbeat


@settings
class ReportSettings:
    """What to write, and where."""

    out: str | None = setting(
        "file; null: report.html in the run's folder; comparison.html here, of several",
        default=None,
    )
    runs_root: str = setting("where run ids are looked up", default="outputs")
    trust: tuple[str, ...] = setting(
        "a world of your own to import: trust=[world._target_=mine.World]", default=()
    )


def main(arguments: Sequence[str]) -> None:
    names, chosen = read_command(ReportSettings, arguments)
    if not names:
        raise RunError("which run? lsp report <run folder or id> [more of them]")
    folders = [find_run(name, chosen.runs_root) for name in names]
    from lsp.report.comparison_page import COMPARISON, write_comparison
    from lsp.report.page import REPORT, write_report
    from lsp.report.record import read_records, unreadable

    with Heartbeat("reading the record"):
        records = read_records(folders, consent(chosen.trust))
    if len(records) == 1 < len(names):
        raise RunError(
            f"{' and '.join(names)} are one run, {folders[0]}; to compare, name two or more:"
            " lsp report RUN RUN"
        )
    alone = len(records) == 1
    path = Path(chosen.out or (records[0].folder / REPORT if alone else COMPARISON))
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is there and is no file; choose another with out=…")
    try:
        with unreadable(), Heartbeat("writing the report"):
            write_report(records[0], path) if alone else write_comparison(records, path)
    except OSError as error:
        reason = f"the report cannot be written to {path}: {error.strerror}"
        raise RunError(f"{reason}; choose another file with out=…") from error
    print(path)


if __name__ == "__main__":
    sys.exit(run("report", sys.argv[1:]))
