"""Where this program's own files lie, in a checkout or where a wheel put them; how it was started.

A checkout has ``conf/`` and ``run.py`` beside ``lsp/``; a wheel has ``lsp/conf/`` and the command
``lsp``.
"""

import sys
from pathlib import Path

LSP = Path(__file__).parents[1]
ROOT = LSP.parent
"""What ``lsp``, ``eval`` and ``sweeps`` lie in."""
IS_CHECKOUT = (ROOT / "run.py").is_file() and (ROOT / "conf").is_dir()
CONF = ROOT / "conf" if IS_CHECKOUT else LSP / "conf"


def train_command(launcher: str = "python") -> str:
    """What stands before a run's settings where it is started as this process was: run.py of a
    checkout, or the command ``lsp``. ``launcher``: ``python``, or torchrun with its words."""
    if IS_CHECKOUT and not _started_as_lsp():
        return f"{launcher} run.py"
    return "lsp train" if launcher == "python" else f"{launcher} -m lsp train"


def _started_as_lsp() -> bool:
    script = Path(sys.argv[0])
    return script.name == "lsp" or script == LSP / "__main__.py"


def shipped(name: str) -> Path:
    """A file by its path from here or, where there is none, from where this program lies:
    ``sweeps/beta.yaml`` from any folder."""
    path, ours = Path(name), ROOT / name
    return ours if ours.exists() and not path.exists() else path
