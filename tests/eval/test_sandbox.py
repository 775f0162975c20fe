"""Programs that nobody trusts, in real processes: what they may, and what becomes of an attack."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval import sandbox
from eval.sandbox import Limits, Outcome, check_sandbox, run_program
from lsp.errors import RunError

ROOT = Path(__file__).parents[2]
QUICK = Limits(cpu_seconds=1, deadline_seconds=120)


@pytest.fixture(scope="module", autouse=True)
def a_sandbox():
    try:
        check_sandbox()
    except RunError as error:
        pytest.skip(str(error))


def problem_of(program, limits=QUICK):
    return run_program(program, limits).problem


def test_a_program_that_runs_to_its_end_passes():
    assert run_program("import math, random, typing\nassert math.floor(2.5) == 2", QUICK) == (
        Outcome(None)
    )
    writes = "open('mine', 'w').write('x')\nassert open('mine').read() == 'x'"
    assert run_program(writes, QUICK).passed
    assert run_program("print('x' * 10**6)", QUICK).passed  # to nowhere


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("assert 1 == 2, 'so'", "AssertionError: so"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("input()", "EOFError: EOF when reading a line"),
        ("raise Exception('\\ud800')", "Exception: ?"),
    ],
)
def test_an_exception_is_the_problem(program, problem):
    assert problem_of(program).startswith(problem)


@pytest.mark.parametrize("program", ["import os; os._exit(0)", "import os; os._exit(97)"])
def test_who_stops_early_has_not_passed(program):
    assert problem_of(program) == "exited"


def test_what_a_program_says_itself_is_no_pass():
    says = "import os, sys\nos.write(int(sys.argv[1]), b'passed')\nos._exit(0)"
    assert problem_of(says) == "passed"
    floods = "import os, sys\nwhile True: os.write(int(sys.argv[1]), b'x' * 65536)"
    assert not run_program(floods, QUICK).passed


def test_an_endless_loop_ends_by_its_cpu_time():
    assert problem_of("while True: pass") == "used 1 s of CPU time"


def test_one_that_sleeps_ends_at_the_deadline():
    sleeps = "import time\ntime.sleep(1000)"
    assert problem_of(sleeps, Limits(deadline_seconds=1)) == "not done after 1 s"


@pytest.mark.parametrize(
    ("attack", "problem"),
    [
        ("while True: os.fork()", "BlockingIOError"),
        ("import threading; threading.Thread(target=print).start()", "RuntimeError: can't start"),
        ("import subprocess; subprocess.run(['/usr/bin/env'])", "BlockingIOError"),
        ("x = b'x' * (4 << 30)", "MemoryError"),
        ("open('x', 'w').write('x' * (20 << 20))", "OSError: [Errno 27] File too large"),
        (
            "for i in range(9): open(str(i), 'w').write('x' * (3 << 20))",
            "OSError: [Errno 28] No space left",
        ),
        ("open('/x', 'w')", "OSError: [Errno 30] Read-only file system"),
        ("open('/usr/x', 'w')", "OSError: [Errno 30] Read-only file system"),
        ("os.listdir('/proc')", "FileNotFoundError"),
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("os.kill(-1, 9)", "ProcessLookupError"),
        ("os.chroot('.')", "PermissionError"),
        ("os.setuid(0)", ""),
        ("import ctypes; ctypes.string_at(0)", "ended by signal 11"),
    ],
)
def test_an_attack_fails(attack, problem):
    assert problem_of(f"import os\n{attack}").startswith(problem)


def test_there_is_no_network_not_even_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tries = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"
        assert problem_of(tries).startswith("OSError: [Errno 101] Network is unreachable")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_no_secret_of_the_environment_and_no_folder_of_ours_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PLANTED", "a planted secret")
    (tmp_path / "file").write_text("x")
    assert problem_of("import os\nassert False, sorted(os.environ)") == (
        "AssertionError: ['LANG', 'PATH']"
    )
    assert problem_of(f"open({str(tmp_path / 'file')!r})").startswith("FileNotFoundError")
    assert problem_of("import os\nassert os.listdir('.') == os.listdir('/work') == []") is None
    assert problem_of("import os\nassert 'work' in os.listdir('/'), os.listdir('/')") is None


def test_it_runs_as_nobody_in_particular_and_sees_no_process():
    assert problem_of("import os\nassert os.getpid() == 1 and os.getuid() != 0") is None


def test_nothing_is_left_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    run_program("open('x', 'w').write('x')", QUICK)
    assert list(tmp_path.iterdir()) == []


def test_whoever_starts_it_takes_it_along(tmp_path):
    """kill -9 of the process that waits for a program."""
    code = (
        "from eval.sandbox import Limits, run_program\n"
        "run_program('import time; time.sleep(1000)', Limits(deadline_seconds=900))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True)
    while not (runners := children(process.pid)):
        time.sleep(0.01)
    while not (programs := children(runners[0])):
        time.sleep(0.01)
    process.kill()
    process.wait()
    while any(Path(f"/proc/{pid}").exists() and not dead(pid) for pid in (*runners, *programs)):
        time.sleep(0.01)


def children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def dead(pid):
    """A zombie that nobody waits for."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


PYTHON = Path("/usr/bin/python3")


@pytest.mark.skipif(
    os.getuid() != 0 or not PYTHON.exists(), reason="needs root and a Python of all"
)
def test_it_works_without_root_by_a_namespace_of_users(tmp_path):
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
from eval.sandbox import Limits, run_program
for program in json.loads(sys.argv[2]):
    print(run_program(program, Limits()).problem)
"""
    programs = [
        "import os\nassert os.getuid() == 65534 and os.getpid() == 1",
        "import socket\nsocket.create_connection(('127.0.0.1', 1), 5)",
        "import os\nos.fork()",
        "open('/usr/x', 'w')",
    ]
    copies = tmp_path / "copies"
    for name in ("eval/sandbox.py", "eval/sandbox_runner.py", "lsp/errors.py"):
        (copies / name).parent.mkdir(parents=True, exist_ok=True)
        (copies / name).write_bytes((ROOT / name).read_bytes())
    for folder in (copies, *copies.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)  # pytest's own folders
    done = subprocess.run(
        [PYTHON, "-B", "-c", code, str(copies), json.dumps(programs)],
        user=65534, group=65534, extra_groups=[], env={}, cwd="/", text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if "no sandbox can be made here" in done.stderr:
        pytest.skip("this kernel has no namespaces of users")
    found = done.stdout.splitlines()
    assert found[0] == "None", done.stderr
    assert found[1].startswith("OSError: [Errno 101]")
    assert found[2].startswith("BlockingIOError")
    assert found[3].startswith("OSError: [Errno 30]")


def test_where_the_kernel_refuses_the_error_says_what_it_needs(monkeypatch, tmp_path):
    runner = tmp_path / "runner.py"
    text = sandbox.RUNNER.read_text()
    runner.write_text(
        text.replace("NEW_MOUNTS, NEW_IPC", "NEW_IPC, NEW_MOUNTS").replace(
            "0x20000, 0x8000000", "1, 2"
        )
    )
    monkeypatch.setattr(sandbox, "RUNNER", runner)
    with pytest.raises(RunError, match=r"no sandbox can be made here: \w+: .*It needs Linux 5\.12"):
        check_sandbox()
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(RunError, match="no sandbox can be made here. It needs Linux"):
        check_sandbox()
