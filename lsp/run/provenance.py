"""A command line goes in; what it ran on (commit, versions, machine) comes out, without secrets."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from lsp.tools.places import IS_CHECKOUT, ROOT
from lsp.tools.secrets import HIDDEN, blank, findings, scrub

PACKAGES = (
    "language-self-play",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "hydra-core",
    "wandb",
    "numpy",
)
LONGEST_DIFF = 2_000_000
"""Characters that are read of what git says: a longer diff is data and no code, and a megabyte
takes half a second to look through for secrets."""
MOST_UNTRACKED = 1000
"""Names of untracked files that are kept: a folder of data beside the code has more."""
OF_A_DIFF = (
    *("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)
"""What git's settings of a user change nothing in."""
_NAME = re.compile(r'^(?:--- "?a|\+\+\+ "?b)/([^"\t\n]+)', re.MULTILINE)


@dataclass(frozen=True)
class CodeDiff:
    """What differs from the commit, with secrets blanked, and what was: ``secrets`` has a text for
    each kind in each file."""

    text: str
    secrets: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """For the terminal; empty where the diff holds no secret."""
        if not self.secrets:
            return ""
        return (
            "what differs from the commit holds what looks like a secret"
            f" ({', '.join(self.secrets)}), so it is not sent to W&B, and the run's code.diff has"
            f" {HIDDEN} in its place; take the secret out of the code, or commit the line if it is"
            " none"
        )


def provenance(command: str) -> dict[str, Any]:
    """Command line, git state, versions, hardware. Of untracked files only names are kept."""
    untracked = scrub(_git("ls-files", "--others", "--exclude-standard")).splitlines()
    if len(untracked) > MOST_UNTRACKED:
        more = len(untracked) - MOST_UNTRACKED
        untracked = [*untracked[:MOST_UNTRACKED], f"and {more:,} more"]
    return {
        "command": scrub(command),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_untracked": untracked,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
    }


def code_diff() -> CodeDiff:
    """What differs from the commit; empty where there is no git. A longer diff than
    ``LONGEST_DIFF`` ends with the last file that is whole, and says so."""
    diff = _git(*OF_A_DIFF)
    if len(diff) > LONGEST_DIFF:
        whole = diff[: diff.rfind("\ndiff --git ") + 1]
        diff = f"{whole}[the rest is left out: more than {LONGEST_DIFF:,} characters]\n"
    found = findings(diff)
    secrets = (f"{finding.kind} in {_file_of(diff, finding.start)}" for finding in found)
    return CodeDiff(blank(diff, found), tuple(dict.fromkeys(secrets)))


def _file_of(diff: str, position: int) -> str:
    """The file that a place in a diff belongs to, by the heading above it."""
    name = _NAME.search(diff, max(0, diff.rfind("diff --git ", 0, position)), position)
    return scrub(name[1]) if name else "a heading"


def _git(*arguments: str) -> str:
    """What git says, or the beginning of what is too long; empty where it fails, and of a wheel,
    which may lie in somebody else's repository."""
    if not IS_CHECKOUT:
        return ""
    quiet = {"cwd": ROOT, "stderr": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    try:
        process = subprocess.Popen(["git", *arguments], text=True, errors="replace", **quiet)
    except FileNotFoundError:
        return ""
    with process:
        text = process.stdout.read(LONGEST_DIFF + 1)
        if len(text) > LONGEST_DIFF:
            process.kill()
            return text
    return text.strip() if process.returncode == 0 else ""


def package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
