"""Texts of the program go in; the commands that they tell to type come out, and are run here."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from lsp.cli.table import COMMANDS
from lsp.errors import RunError
from lsp.loop.launch import start

ROOT = Path(__file__).parents[1]
SHAPE = ["num_steps=3", "num_queries=3", "group_size=2", "eval=none", "tracker=none",
         "objective=null"]  # fmt: skip
"""Of the smallest run."""
COMMAND = re.compile(
    r"python run\.py|python -m |\blsp [a-z]+ (?:RUN|<run|[a-z_]+=)|resume=|init=checkpoint"
    r"|pip install|run\.py "
)
MAKERS = {"go_on_command", "start_again_command", "begin_command", "train_command"}


def commands(text):
    """Those in a text, each to the end of its line, or to the mark that the sentence goes on."""
    pattern = (
        r"((?:(?:python|torchrun [-\w ]+) (?:run\.py|-m [\w.]+)|(?<=`)lsp [a-z]+)\b.*?)"
        r"(?=`|\n|$|; |\), | shows |\.$)"
    )
    return re.findall(pattern, text)


def execute(command, *more):
    """What ``python run.py``, ``python -m`` or ``lsp`` would do, in this process."""
    if command.startswith("lsp "):
        name, *words = [*shlex.split(command)[1:], *more]
        return importlib.import_module(COMMANDS[name].module).main(words)
    first, *words = [*shlex.split(command)[1:], *more]
    if first == "run.py":
        return start(words)
    module, *words = words
    package = importlib.util.find_spec(module).submodule_search_locations is not None
    main = importlib.import_module(f"{module}.__main__" if package else module).main
    return main(words)


def refused(*overrides, kind=RunError):
    """What ``python run.py`` says instead of running."""
    with pytest.raises(kind) as raised:
        start(overrides)
    return str(raised.value)


def failing(function, at, error):
    """``function``, whose call number ``at`` raises ``error``."""
    calls = []

    def made(*arguments, **more):
        calls.append(1)
        if len(calls) == at:
            raise error
        return function(*arguments, **more)

    return made


def places_and_texts():
    """(file:function, text) of each command in the code, docstrings left out."""
    files = [ROOT / "run.py"]
    for folder in ("lsp", "eval", "sweeps"):
        files += (ROOT / folder).rglob("*.py")

    def visit(node, where):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            where = f"{where.partition(':')[0]}:{node.name}"
        children = list(ast.iter_child_nodes(node))
        words = [n.value for n in (node, *children) if isinstance(n, ast.Constant)]
        if isinstance(node, ast.Constant) and COMMAND.search(str(node.value)):
            yield where, node.value
        elif isinstance(node, ast.JoinedStr):
            if COMMAND.search(text := "".join(words)):
                yield where, text
            children = [child for child in children if isinstance(child, ast.FormattedValue)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in MAKERS:
            yield where, ""
        elif isinstance(node, ast.Expr) and words:  # a docstring
            children = []
        for child in children:
            yield from visit(child, where)

    for file in files:
        yield from visit(ast.parse(file.read_text()), file.relative_to(ROOT).as_posix())
