"""Secrets that are planted around a run, in its environment, the code's diff, the command line and
settings, are in no byte that it stores, prints or sends."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from planted import FORMATS, PATHS, draw, private_key

from lsp.tools.secrets import HIDDEN

ROOT = Path(__file__).parents[1]
PATIENCE = 900
"""Seconds until a process counts as hanging."""


def planted(name, seed):
    return draw(FORMATS[name], random.Random(seed))


def run_py(environment, *overrides):
    return subprocess.run(
        [sys.executable, "run.py", *overrides],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture
def code(tmp_path):
    """Makes the repository whose diff a run keeps, in place of this one: ``code("a = 1\\n")`` ->
    the variables that tell git so."""
    folder = tmp_path / "code"
    folder.mkdir()
    where = {"GIT_DIR": str(folder / ".git"), "GIT_WORK_TREE": str(folder)}

    def make(changed):
        words = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        (folder / "mine.py").write_text("a = 0\n")
        for command in (["init", "-q"], ["add", "mine.py"], ["commit", "-q", "-m", "first"]):
            subprocess.run(["git", *words, *command], cwd=folder, check=True)
        (folder / "mine.py").write_text(changed)
        return where

    return make


def environment_of(stub, code_at, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    return {**kept, **stub.environment(), **code_at, **more, "OMP_NUM_THREADS": "1"}


def stored(folder):
    """(file, its bytes) of all that a run stored; what is compressed as it was before."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            content += repr((table.schema.metadata, table.to_pydict())).encode()
        yield path.relative_to(folder), content


ONLINE = ["tracker.mode=online", "tracker.finish_seconds=300", "tracker.tables=all"]


def test_planted_secrets_are_in_no_file_no_output_and_nothing_that_was_sent(
    small, tmp_path, wandb_stub, code
):
    key_lines = private_key("RSA ", random.Random(1))
    in_code = [planted("Groq", 2), planted("AWS secret", 3), draw("{hex:40}", random.Random(4))]
    address = draw(PATHS[0], random.Random(5))
    changed = [
        f"client({in_code[0]!r})",
        f"session('eu-central-1', {in_code[1]!r})",
        f"wandb.login(key={in_code[2]!r})",
        f"post({address!r})",
        '"""',
        *key_lines,
        '"""',
    ]
    around = {"JUDGE_KEY": "my-very-own-words", "SOME_TOKEN": planted("Hugging Face", 6)}
    on_command_line = planted("GitHub", 7)
    folder = tmp_path / "run"
    result = run_py(
        environment_of(wandb_stub, code("\n".join(changed) + "\n"), **around),
        *(*small, *ONLINE, f"run_dir={folder}", f"hydra.job.name={on_command_line}"),
    )
    assert result.returncode == 0, result.stderr

    # Said once, by kind and file, and the diff stayed here with its secrets blanked.
    warnings = [line for line in result.stderr.splitlines() if "so it is not sent to W&B" in line]
    assert len(warnings) == 1 and "private key in mine.py" in warnings[0]
    (run,) = wandb_stub.runs.values()
    assert "lsp/run.json" in run.files and "lsp/code.diff" not in run.files
    diff = (folder / "code.diff").read_text()
    assert f"+client('{HIDDEN}')\n" in diff and f"+wandb.login(key='{HIDDEN}')\n" in diff
    record = json.loads((folder / "run.json").read_text())
    assert "private key in mine.py" in record["secrets_in_diff"]
    assert record["command"].endswith(f"hydra.job.name={HIDDEN}")

    # In no byte: files, report, what was printed, what the server received.
    files = dict(stored(folder))
    assert {"report.html", "metrics.jsonl"} <= {path.name for path in files}
    assert any(path.suffix == ".parquet" for path in files) and len(wandb_stub.received) > 10
    places = {
        **files,
        "printed": (result.stdout + result.stderr).encode(),
        **{f"request {i}": body for i, body in enumerate(wandb_stub.received)},
    }
    secrets = [*in_code, *around.values(), on_command_line, address.rpartition("/")[2]]
    for secret in [*secrets, *key_lines[1:-1]]:
        assert [place for place, content in places.items() if secret.encode() in content] == []


@pytest.mark.slow
def test_a_diff_without_secrets_is_sent(small, tmp_path, wandb_stub, code):
    folder = tmp_path / "run"
    result = run_py(
        environment_of(wandb_stub, code("a = 1\n"), KEY_DIR=str(tmp_path)),
        *(*small, *ONLINE, f"run_dir={folder}", "num_steps=1", "eval.every=0"),
    )
    assert result.returncode == 0, result.stderr
    assert "secret" not in result.stderr
    (run,) = wandb_stub.runs.values()
    assert run.files["lsp/code.diff"].endswith(b"-a = 0\n+a = 1")


@pytest.mark.parametrize(
    "overrides",
    [
        ["reward=http", "reward.url='https://host/r?key={secret}'"],
        ["-m", "seed=1,2", "run_name=first,{secret}"],  # of which only the second job is told
    ],
    ids=["run", "multirun"],
)
def test_a_secret_in_a_setting_is_refused_unseen_before_anything_is_stored(overrides, tmp_path):
    secret = planted("Groq", 8)
    words = [text.format(secret=secret) for text in overrides]
    result = run_py(dict(os.environ), *words, f"runs_root={tmp_path}")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    assert "holds what looks like a secret" in result.stderr
    assert secret not in result.stderr and list(tmp_path.iterdir()) == []
