"""Where a run came from is kept; secrets are not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsp.errors import ConfigError
from lsp.run.provenance import code_diff, provenance
from lsp.settings.compose import compose
from lsp.tools.secrets import HIDDEN, scrub

ROOT = Path(__file__).parents[3]
# Made up; none of them opens anything.
PLANTED = {
    "by name": "zzTop" + "SecretValue123",
    "openai": "sk-proj-" + "abcDEF0123456789abcDEF",
    "hub": "hf_" + "abcdefghijKLMNOP1234",
    "github": "ghp_" + "abcdefghij0123456789KLMNOPqrst",
    "url": "hunter2" * 2,
    "assigned": "f00dface" * 2,
}


@pytest.mark.parametrize(
    "text",
    [
        f"run.py judge={PLANTED['by name']}",
        f"key {PLANTED['openai']} in a sentence",
        f"+TOKEN = '{PLANTED['hub']}'",
        f"git clone {PLANTED['github']}",
        f"https://me:{PLANTED['url']}@host/path?x=1",
        f'{{"api_key": "{PLANTED["assigned"]}"}}',
        f"my_password: {PLANTED['assigned']}",
        f"Authorization: Bearer {PLANTED['assigned']}",
    ],
)
def test_secrets_are_hidden(text):
    found = scrub(text, {"MY_SERVICE_KEY": PLANTED["by name"], "HOME": "/home/me"})
    assert HIDDEN in found
    assert not any(secret in found for secret in PLANTED.values())


@pytest.mark.parametrize(
    "text",
    [
        "num_tokens = 3",
        "python run.py method=lsp method.beta=0.1",
        "self.tokenizer = tokenizer",
        "the key to the door",
        "https://host/path",
        "token: null",
    ],
)
def test_harmless_text_is_left_alone(text):
    assert scrub(text, {"KEY": "", "SHORT_KEY": "abc"}) == text


def test_provenance_says_where_a_run_came_from():
    found = provenance("python run.py seed=1")
    assert found["command"] == "python run.py seed=1"
    assert found["packages"]["torch"] and found["python"].startswith("3.")
    assert isinstance(found["git_untracked"], list) and found["cpus"] >= 1
    json.dumps(found)
    assert isinstance(code_diff(), str)


@pytest.fixture
def untracked_secret():
    """A file that git does not track, beside the code, with a secret in it."""
    path = ROOT / "untracked-note.txt"
    path.write_text(PLANTED["github"])
    yield path
    path.unlink()


def test_planted_keys_are_in_no_file_of_a_run(small, tmp_path, untracked_secret):
    """Keys in the environment and in an untracked file, W&B offline: the whole folder is read."""
    folder = tmp_path / "run"
    result = subprocess.run(
        [sys.executable, "run.py", *small, f"run_dir={folder}"],
        cwd=ROOT,
        env={
            **os.environ,
            "WANDB_MODE": "offline",
            "WANDB_API_KEY": PLANTED["by name"] * 3,
            "SOME_TOKEN": PLANTED["hub"],
            "OPENAI_API_KEY": PLANTED["openai"],
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert untracked_secret.name in json.loads((folder / "run.json").read_text())["git_untracked"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        content = path.read_bytes()
        for secret in PLANTED.values():
            assert secret.encode() not in content, path.relative_to(folder)


@pytest.mark.parametrize(
    "setting", ["run_name={openai}", "tracker.project={hub}", "model.name=https://u:{url}@h/m"]
)
def test_a_setting_that_holds_a_secret_is_refused(setting):
    with pytest.raises(ConfigError, match="looks like a secret. Keys come from") as raised:
        compose([setting.format(**PLANTED)])
    assert not any(secret in str(raised.value) for secret in PLANTED.values())
