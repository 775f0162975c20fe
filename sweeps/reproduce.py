"""``make reproduce``: the pocket rows of docs/reproduce.md are run, PASS or FAIL comes out.

``python -m sweeps.reproduce table`` prints the rows for the docs. A value is what this project
measured; bits are promised on one machine only, so a tolerance is what another machine, or another
version of torch, may move it by. Runs that are there are gone on with, whatever made them: remove
``outputs/reproduce/`` for a fresh start. Runs of another commit are pointed out.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from lsp.cli.main import start_module
from lsp.errors import RunError
from lsp.files import read_csv
from lsp.run.folder import read_run
from lsp.run.provenance import provenance
from lsp.tools.text import markdown_table
from lsp.tracking.reader import read_json
from sweeps.parallel import require_all
from sweeps.progress import Stage


@dataclass(frozen=True)
class Claim:
    """A sentence and the number that bears it, ``value`` ± ``tolerance``. ``file``, under PLACE, is
    a summary.json and ``key`` a name in it, or a figure's CSV and ``key`` is ``<bar>/<set>``."""

    text: str
    file: str
    key: str
    value: float
    tolerance: float

    def verdict(self, root: Path) -> str:
        """PASS or FAIL, with what was measured and expected."""
        path, expected = root / self.file, f"expected {self.value:g} ± {self.tolerance:g}"
        try:
            if path.suffix == ".json":
                measured = float(str(read_json(path, NUMBERS)[self.key]))
            else:
                rates = {f"{row['bar']}/{row['set']}": row["win_rate"] for row in read_csv(path)}
                measured = float(rates[self.key])
        except (RunError, OSError, KeyError, ValueError) as error:
            return f"FAIL  {self.text}: {type(error).__name__}: {error} ({expected})"
        word = "PASS" if abs(measured - self.value) <= self.tolerance else "FAIL"  # NaN fails
        return f"{word}  {self.text}: {measured:.3f} ({expected})"


NUMBERS = TypeAdapter(dict[str, object])
PLACE = "outputs/reproduce"
BOTH = "seeds=3 tracker=none eval.every=0 folder=outputs/reproduce"
ANCHORED_RUN = "lsp_zero-anchored-seed-0"
STEPS = {
    f"-m sweeps.paper figure=2 paper=v1 {BOTH}": 3,
    f"-m sweeps.paper figure=3 paper=v3 {BOTH}": 3,
    "run.py method=lsp_zero method.challenger_beta=0.3 tracker=none eval.every=0 resume=auto"
    f" run_dir={PLACE}/{ANCHORED_RUN}": 1,
}
"""What is run, ``python <command>``, and its minutes on two cores."""
LSP, LSP_ZERO, GRPO = (f"{name}-seed-0/summary.json" for name in ("lsp", "lsp_zero", "grpo"))
ANCHORED = f"{ANCHORED_RUN}/summary.json"
LEGAL, SHARE = "final/valid_query_frac", "(share of legal queries)"
CLAIMS = (
    Claim("The base's exact accuracy", LSP, "base/accuracy", 0.539, 0.002),
    Claim("LSP learns without data (exact accuracy)", LSP, "final/accuracy", 0.84, 0.03),
    Claim("GRPO on data (exact accuracy)", GRPO, "final/accuracy", 0.84, 0.03),
    Claim(f"LSP's Challenger stays in the language {SHARE}", LSP, LEGAL, 0.98, 0.05),
    Claim(f"LSP-Zero's Challenger leaves it {SHARE}", LSP_ZERO, LEGAL, 0.1, 0.15),
    Claim(
        "LSP-Zero with β_Ch = .3 learns without data (exact accuracy)",
        ANCHORED,
        "final/accuracy",
        0.842,
        0.03,
    ),
    Claim(f"Its Challenger stays in the language {SHARE}", ANCHORED, LEGAL, 0.92, 0.08),
    Claim(
        "It ends near the equilibrium (NashConv; base .290)",
        ANCHORED,
        "final/nash_conv",
        0.084,
        0.05,
    ),
    Claim("Figure 2, GRPO (discrete win rate, %)", "figure-2.csv", "grpo/overall", 46.0, 4),
    Claim("Figure 2, LSP", "figure-2.csv", "lsp/overall", 45.1, 4),
    Claim("Figure 2, LSP-Zero", "figure-2.csv", "lsp_zero/overall", 34.1, 6),
    Claim("Figure 3, LSP as a stage after GRPO", "figure-3.csv", "lsp_from_grpo/overall", 46.4, 4),
    Claim("Figure 3, GRPO after LSP", "figure-3.csv", "grpo_from_lsp/overall", 48.0, 4),
)


def claims_table() -> str:
    """Markdown of both, as docs/reproduce.md has it."""
    commands = [[f"`python {command}`", str(minutes)] for command, minutes in STEPS.items()]
    rows = [[c.text, f"{c.value:g}", f"{c.tolerance:g}", f"`{c.file}`, `{c.key}`"] for c in CLAIMS]
    table = markdown_table(["command", "minutes on two cores"], commands)
    return f"{table}\n{markdown_table(['claim', 'value', 'tolerance', 'file, key'], rows)}"


def main(arguments: Sequence[str]) -> None:
    if list(arguments) == ["table"]:
        print(claims_table(), end="")
        return
    if arguments:
        sys.exit("error: python -m sweeps.reproduce [table]")
    require_all(*(Stage([command.split()], 1) for command in STEPS))
    root = Path(PLACE)
    lines = [claim.verdict(root) for claim in CLAIMS]
    print("\n".join(lines))
    commits = [read_run(path.parent).get("git_commit") for path in root.glob("*/run.json")]
    if others := len(commits) - commits.count(provenance("")["git_commit"]):
        print(f"note: {others} runs in {PLACE} are of another commit; remove it to run anew")
    if any(line.startswith("FAIL") for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    start_module("sweeps.reproduce", __doc__)
