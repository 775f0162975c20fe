"""Between ``eval.sandbox`` and a program: closes itself in, then lets Python run the program.

Started by its path, on the standard library alone, with an empty folder's name; stdin holds a
``Request`` as JSON. What the program's harness says goes to stdout, how it ended to stderr, as
JSON. Exit status REFUSED: the kernel does not allow it, and stderr says what. Linux.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys

REFUSED = 97
NOBODY = 65534
# Of unshare(2), mount(2), mount_setattr(2), prctl(2).
NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
NEW = NEW_MOUNTS | NEW_IPC | NEW_PIDS | NEW_NETWORK
NO_SET_UID, NO_DEVICES, BIND, RECURSIVE, PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
MOUNT_SETATTR, CURRENT_FOLDER, AND_BELOW, READ_ONLY = 442, -100, 0x8000, 1
DEATH_SIGNAL, NO_NEW_PRIVILEGES = 1, 38
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64")
HARNESS = """
import json, os, sys
answer = int(sys.argv[1])
program, token = json.load(sys.stdin)
os.dup2(1, 0)
os.write(answer, b"+")
try:
    exec(compile(program, "program", "exec"), {"__name__": "program"})
    said = token
except BaseException as error:
    said = f"{type(error).__name__}: {error}"[:200]
os.write(answer, said.encode(errors="replace"))
os._exit(0)
"""
LIBC = ctypes.CDLL(None, use_errno=True)


def main(folder: str) -> None:
    request = json.load(sys.stdin)
    LIBC.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    is_root = os.geteuid() == 0
    nowhere = os.open(os.devnull, os.O_RDWR)
    program = os.memfd_create("program")
    os.write(program, json.dumps([request["program"], request["token"]]).encode())
    os.lseek(program, 0, os.SEEK_SET)
    try:
        leave_namespaces(is_root)
        build_root(folder, request["megabytes"])
    except OSError as error:
        sys.stderr.write(f"{error.filename or error}: {os.strerror(error.errno)}")
        sys.exit(REFUSED)
    child = os.fork()
    if child == 0:
        run_program(folder, request, is_root, program, nowhere)
    late = []
    signal.signal(signal.SIGALRM, lambda *_: (late.append(True), os.kill(child, signal.SIGKILL)))
    signal.alarm(request["deadline_seconds"])
    _, status, used = os.wait4(child, 0)
    signal.alarm(0)
    ended = {"late": bool(late), "code": os.waitstatus_to_exitcode(status)}
    sys.stderr.write(json.dumps({**ended, "cpu_seconds": used.ru_utime + used.ru_stime}))


def leave_namespaces(is_root: bool) -> None:
    """Without root, a namespace of users comes first, which allows the others; its one user is the
    one that runs this."""
    user, group = os.getuid(), os.getgid()
    call("unshare", NEW if is_root else NEW | NEW_USER)
    if not is_root:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    call("mount", None, b"/", None, RECURSIVE | PRIVATE, None)


def build_root(folder: str, megabytes: int) -> None:
    """In ``folder``: this Python and the system's libraries, to read, and ``work``, to write."""
    flags = NO_SET_UID | NO_DEVICES
    call("mount", b"tmpfs", folder.encode(), b"tmpfs", flags, b"size=1m,mode=0755")
    prefix = os.path.realpath(sys.base_prefix)
    for path in dict.fromkeys((*SYSTEM, *([] if prefix.startswith("/usr") else [prefix]))):
        place = folder + path
        if os.path.islink(path):
            os.symlink(os.readlink(path), place)
        elif os.path.isdir(path):
            os.makedirs(place, 0o755)
            call("mount", path.encode(), place.encode(), None, BIND | RECURSIVE, None)
    work = os.path.join(folder, "work")
    os.mkdir(work)
    attributes = struct.pack("QQQQ", READ_ONLY, 0, 0, 0)
    size = len(attributes)
    call("syscall", MOUNT_SETATTR, CURRENT_FOLDER, folder.encode(), AND_BELOW, attributes, size)
    options = f"size={megabytes}m,mode=0777".encode()
    call("mount", b"tmpfs", work.encode(), b"tmpfs", flags, options)


def run_program(folder: str, request: dict, is_root: bool, program: int, nowhere: int) -> None:
    """In the child: never returns. Python is executed anew, so that capabilities are gone."""
    try:
        python, answer = os.path.realpath(sys.executable), os.dup(1)
        for source, target in ((program, 0), (nowhere, 1), (nowhere, 2)):
            os.dup2(source, target)
        os.set_inheritable(answer, True)
        os.chroot(folder)
        os.chdir("/work")
        if is_root:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        LIBC.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        memory, size = request["memory_megabytes"] << 20, request["megabytes"] << 20
        cpu = request["cpu_seconds"]
        for name, limit in (
            ("CPU", cpu),
            ("AS", memory),
            ("FSIZE", size),
            ("NOFILE", 64),
            ("CORE", 0),
            ("NPROC", 0),
        ):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
        words = [python, "-I", "-S", "-B", "-c", HARNESS, str(answer)]
        os.execve(python, words, {"PATH": "/usr/bin", "LANG": "C.UTF-8"})
    finally:
        os._exit(REFUSED)


def call(name: str, *arguments: object) -> None:
    """A function of libc. Raises OSError with its name."""
    if getattr(LIBC, name)(*arguments):
        raise OSError(ctypes.get_errno(), name, name)


if __name__ == "__main__":
    main(sys.argv[1])
