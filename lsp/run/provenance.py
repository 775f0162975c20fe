"""A command line goes in; what it ran on (commit, versions, machine) comes out, without secrets."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from lsp.tools.secrets import scrub

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "transformers", "peft", "accelerate", "hydra-core", "wandb", "numpy")


def provenance(command: str) -> dict[str, Any]:
    """Command line, git state, versions, hardware. Of untracked files only names are kept."""
    return {
        "command": scrub(command),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_untracked": scrub(_git("ls-files", "--others", "--exclude-standard")).splitlines(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
    }


def code_diff() -> str:
    """What differs from the commit, scrubbed; empty where there is no git."""
    return scrub(_git("diff", "HEAD"))


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
