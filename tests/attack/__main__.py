"""``python -m tests.attack``: what reality does to a run; the table of docs/reliability.md.

    python -m tests.attack                       # all of it, seed 0
    python -m tests.attack kills=6 commands=50 files=30 answers=5 seed=1

Kills at random moments, command lines that nobody means, damaged files of a run, servers that
answer badly. All is drawn from the seed, real (processes, files, sockets), and must end in a result
or in one message for the user. Exits with 1 where anything did not.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lsp.errors import RunError
from lsp.settings.command import read_settings
from lsp.settings.schema import setting, settings
from lsp.tools.text import markdown_table
from tests.attack import commands, files, kills, servers
from tests.attack.outcome import SOLVED, Outcome

KINDS = ("result", "error", "traceback", "hang", "leak", "lost")


@settings
class AttackSettings:
    """How much of each."""

    kills: int = setting("kill -9 at random moments", default=60, ge=0, le=100_000)
    commands: int = setting("odd command lines", default=500, ge=0, le=100_000)
    files: int = setting("damaged files of a run", default=300, ge=0, le=100_000)
    answers: int = setting("bad answers for each client, at most", default=100, ge=0, le=10_000)
    seed: int = setting("of all that is drawn", default=0, ge=0, le=2**32 - 1)


def main(arguments: Sequence[str]) -> None:
    try:
        wanted = read_settings(AttackSettings, arguments)
    except RunError as error:
        sys.exit(f"error: {error}")
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run = kills.make_run(work)
        outcomes += kills.attack(run, work / "kills", wanted.kills, wanted.seed)
        outcomes += commands.attack(_made(work / "commands"), wanted.commands, wanted.seed)
        outcomes += files.attack(run, _made(work / "files"), wanted.files, wanted.seed)
        outcomes += servers.attack(_made(work / "servers"), wanted.answers)
    print(table(outcomes))
    failures = [outcome for outcome in outcomes if outcome.kind not in SOLVED]
    for outcome in failures:
        print(f"\n{outcome.kind}: {outcome.what}\n{outcome.detail}")
    sys.exit(f"error: {len(failures)} attacks did not end well" if failures else 0)


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: what was attacked -> how often it ended in which way."""
    rows = []
    for target in dict.fromkeys(outcome.what.partition(":")[0] for outcome in outcomes):
        ends = Counter(o.kind for o in outcomes if o.what.partition(":")[0] == target)
        rows.append([target, str(ends.total()), *(str(ends[kind]) for kind in KINDS)])
    ends = Counter(outcome.kind for outcome in outcomes)
    rows.append(["all", str(ends.total()), *(str(ends[kind]) for kind in KINDS)])
    return markdown_table(["attacked", "times", *KINDS], rows)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])
