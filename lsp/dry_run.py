"""``lsp plan``: the settings of a run go in; what it would take, or why it cannot start, comes out.

The plan is that of ``dry_run=true``, whose checks are the start's own; ``table`` prints the one of
docs/scaling.md.
"""

from collections.abc import Sequence

from lsp.loop.launch import start
from lsp.plan.text import scaling_table


def main(arguments: Sequence[str]) -> None:
    if list(arguments) == ["table"]:
        print(scaling_table())
        return
    start([*arguments, "dry_run=true"])
