"""What was paid for is kept, under any number of processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from lsp.errors import RunError
from lsp.judging.cache import VerdictCache, content_key


def test_two_connections_share_a_cache(tmp_path):
    one, two = VerdictCache(tmp_path / "v.sqlite"), VerdictCache(tmp_path / "v.sqlite")
    key = content_key({"a": "\ud800", "b": 1})
    one.put(key, {"text": "m"})
    two.put(key, {"text": "M"})
    assert two.get(key)["text"] == "m" and two.get("other") is None
    one.close()
    two.close()


def test_many_processes_open_a_cache_at_once(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom lsp.judging.cache import VerdictCache\n"
        "for i in range(20): VerdictCache(Path(sys.argv[1]) / f'{i}.sqlite').close()"
    )
    command, root = [sys.executable, "-c", code, str(tmp_path)], Path(__file__).parents[3]
    processes = [
        subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate(timeout=600)[1] for process in processes] == [""] * 3


def test_a_file_that_is_no_cache_is_one_message(tmp_path):
    (tmp_path / "v.sqlite").write_bytes(b"no database, but long enough to be read as one" * 50)
    with pytest.raises(RunError, match="cannot be read .*; restore the file, or move it away"):
        VerdictCache(tmp_path / "v.sqlite")


def test_what_was_spent_is_told_of_all_connections_and_of_calls_in_flight_at_their_worst(tmp_path):
    one, two = VerdictCache(tmp_path / "v.sqlite"), VerdictCache(tmp_path / "v.sqlite")
    assert one.spent() == 0
    one.begin_call("a", 0.5)
    one.settle_call("a", 0.5, 0.125)
    two.begin_call("b", 0.25)
    assert one.spent() == two.spent() == 0.375
