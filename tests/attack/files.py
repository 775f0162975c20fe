"""Files of a run's folder, damaged: each command must end in a result or in one error.

One file of a copy of a small run is changed: bytes flipped, cut, emptied, zeroed, swapped with
another, values of other types, nested deep, huge, a pipe, a device, a link, a folder. Then each
reader is run on the folder, in a forked process whose CPU time is bounded.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.attack.outcome import Outcome, in_a_child, loopback_wandb

DEEP = 100_000


def flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 3, 30])):
        if data:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def cut(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data) + 1)])


def drop_a_part(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    start = draw.randrange(len(data) + 1)
    path.write_bytes(data[:start] + data[start + draw.randrange(1, 200) :])


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def zero(path: Path, draw: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def swap(path: Path, draw: random.Random) -> None:
    others = [p for p in path.parents[0].iterdir() if p.is_file() and p != path] or [path]
    shutil.copy(draw.choice(others), path)


def other_types(path: Path, draw: random.Random) -> None:
    """A value somewhere in a JSON file or in a line of JSON is of another type."""
    strange = draw.choice([None, [], {}, "x", -1, 1e308, True, [[]], {"a": {}}, "\x1b[2J", 10**30])
    lines = path.read_text(errors="replace").splitlines()
    try:
        whole = path.suffix == ".json"
        number = 0 if whole else draw.randrange(len(lines))
        tree = json.loads(path.read_text() if whole else lines[number])
        node = tree
        while True:
            key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if not isinstance(node[key], (dict, list)) or not node[key] or draw.random() < 0.4:
                node[key] = strange
                break
            node = node[key]
        lines = (
            [json.dumps(tree)]
            if whole
            else [*lines[:number], json.dumps(tree), *lines[number + 1 :]]
        )
    except (ValueError, IndexError, TypeError):  # no JSON: a line of YAML, say
        lines.insert(draw.randrange(len(lines) + 1), f"x: {json.dumps(strange)}")
    path.write_text("\n".join(lines) + "\n")


def deep(path: Path, draw: random.Random) -> None:
    path.write_text(draw.choice(["[", '{"a":', "- "]) * DEEP)


def alias_bomb(path: Path, draw: random.Random) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    path.write_text("\n".join(lines))


def huge(path: Path, draw: random.Random) -> None:
    with path.open("r+b") as stream:
        stream.truncate(10 * 2**30)  # a hole: nothing is written


def replaced(path: Path, draw: random.Random) -> None:
    """By what is no file."""
    path.unlink()
    match draw.choice(["pipe", "folder", "device", "loop", "nowhere", "gone"]):
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path)
        case "nowhere":
            path.symlink_to("/nowhere/at/all")


CHANGES: list[Callable[[Path, random.Random], None]] = [
    *(flip, cut, drop_a_part, empty, zero, swap, other_types, other_types, deep, alias_bomb),
    *(huge, replaced, replaced),
]


SYNC_EVERY = 5


def readers(folder: Path) -> dict[str, Callable[[], Any]]:
    """Name -> a command that reads a run's folder, in this process."""
    import eval.figures
    import lsp.report.__main__ as report
    import lsp.show
    import lsp.sync
    from lsp.run.init import resolve_init
    from lsp.run.resume import find_resumed, supersede
    from lsp.settings.compose import compose

    def resume() -> None:
        overrides = [f"resume={folder}", "accept_gap=true"]
        resumed = find_resumed(compose(overrides[:1]), overrides[:1])
        supersede(folder, resumed.spec.step)

    return {
        "init": lambda: resolve_init(compose([f"init.run={folder}", "init=checkpoint"])),
        "show": lambda: lsp.show.main([str(folder)]),
        "report": lambda: report.main([str(folder), f"out={folder}/other.html"]),
        "figures": lambda: eval.figures.main([str(folder), "benchmark=pocket", f"out={folder}/f"]),
        "sync": lambda: lsp.sync.main([str(folder)]),
        "resume": resume,
    }


def attack(run: Path, work: Path, count: int, seed: int) -> list[Outcome]:
    """``count`` damaged copies of ``run``, each read by all readers; sync, which sends it to a W&B
    on loopback and waits for it, reads every fifth."""
    with loopback_wandb():
        return _attack(run, work, count, seed)


def _attack(run: Path, work: Path, count: int, seed: int) -> list[Outcome]:
    outcomes, draw = [], random.Random(f"files {seed}")
    files = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file()]
    names = [name for name in files if name.parts[0] != "wandb"]
    plain = [name for name in names if name.suffix in (".json", ".jsonl", ".yaml", ".parquet")]
    for number in range(count):
        folder = work / f"run-{number}"
        shutil.copytree(run, folder, symlinks=True)
        name, change = draw.choice(plain if draw.random() < 0.8 else names), draw.choice(CHANGES)
        change(folder / name, draw)
        for reader, call in readers(folder).items():
            if reader == "sync" and number % SYNC_EVERY:
                continue
            outcomes.append(in_a_child(f"damaged file, {reader}: {change.__name__} {name}", call))
        shutil.rmtree(folder)
    return outcomes
