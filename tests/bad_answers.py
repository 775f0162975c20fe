"""Servers that answer badly, by name: what each sends goes in, a server on loopback comes out.

``FOR_REWARD`` and ``FOR_JUDGE`` are what the two clients are tried with: faults of HTTP, of bodies
and of JSON that both can meet (``COMMON``), and answers of another shape than their own.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

Behaviour = Callable[[socket.socket], None]
"""Sends on a connection whose request was read. It may send for ever: it ends when the client
hangs up."""
ESCAPES = "\x1b[2J\x1b]8;;http://evil\x07red\x1b[31m\u202eback\r\n\x00\x9b1m"
"""Clears a terminal, makes a link, turns the reading direction."""


def sends(*parts: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return behave


def answers(body: bytes | str, status: str = "200 OK", **headers: str) -> Behaviour:
    """A well-formed answer; ``content_type="…"`` is a header."""
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = {"Content-Type": "application/json", "Content-Length": str(len(content)), **named}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return sends(f"HTTP/1.1 {status}\r\n{head}\r\n".encode(), content)


def says(value: Any, status: str = "200 OK", **headers: str) -> Behaviour:
    """An answer of JSON."""
    return answers(json.dumps(value), status, **headers)


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def for_ever(first: bytes, part: bytes, pause: float = 0.0) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(part)
            time.sleep(pause)

    return behave


def silence(first: bytes = b"") -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(first)
        connection.recv(1)  # until the client hangs up

    return behave


@cache
def bomb(megabytes: int) -> bytes:
    """So many MiB of blanks, as gzip."""
    packer = zlib.compressobj(9, wbits=31)
    blanks = b" " * 2**20
    return b"".join(packer.compress(blanks) for _ in range(megabytes)) + packer.flush()


def bomb_of(megabytes: int, times: int = 1) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        content = bomb(megabytes)
        for _ in range(times - 1):
            content = gzip.compress(content)
        names = ", ".join(["gzip"] * times)
        answers(content, Content_Encoding=names)(connection)

    return behave


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


ENDLESS: dict[str, Behaviour] = {
    "no byte ever": silence(),
    "half a status line, then nothing": silence(b"HTTP/1.1 20"),
    "a head, then nothing": silence(head("Content-Length: 9")),
    "half a body, then nothing": silence(head("Content-Length: 99") + b'{"rewards": ['),
    "a byte of the head now and then": for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05),
    "a byte of the body now and then": for_ever(head("Content-Length: 99999"), b" ", 0.05),
    "100 Continue for ever": for_ever(b"", head(status="100 Continue"), 0.001),
    "a switch of protocols": silence(head("Upgrade: x", "Connection: upgrade", status="101 X")),
}
"""What only a deadline ends."""

COMMON: dict[str, Behaviour] = {
    "nothing": sends(),
    "a reset": resets,
    "rubbish for a status line": sends(b"hello\r\n\r\n"),
    "bytes of no protocol": sends(bytes(range(256)) * 8),
    "a body without a head": sends(b"<html>busy</html>"),
    "HTTP/2": sends(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a TLS alert": sends(b"\x15\x03\x01\x00\x02\x02\x28"),
    "status 000": answers("{}", "000 None"),
    "status 999": answers("{}", "999 Odd"),
    "a status of letters": answers("{}", "abc OK"),
    "a header without a colon": sends(head("Content-Length 2") + b"{}"),
    "a header with NUL": sends(head("X: a\x00b", "Content-Length: 2") + b"{}"),
    "a header of a megabyte": sends(head("X: " + "x" * 2**20)),
    "headers for ever": for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "a length below zero": sends(head("Content-Length: -1") + b"{}"),
    "a length of letters": sends(head("Content-Length: two") + b"{}"),
    "two lengths": sends(head("Content-Length: 2", "Content-Length: 3") + b"{}"),
    "a length longer than the body": sends(head("Content-Length: 99") + b"{}"),
    "a chunk of no size": sends(head("Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk that is cut": sends(head("Transfer-Encoding: chunked") + b"9\r\n{}"),
    "a chunk of 2^64": sends(head("Transfer-Encoding: chunked") + b"f" * 16 + b"\r\n{}"),
    "no chunk behind the last": sends(head("Transfer-Encoding: chunked") + b"2\r\n{}\r\n"),
    "a body for ever": for_ever(head(), b" " * 2**16),
    "a body of 20 MiB": answers(b" " * (20 * 2**20)),
    "an error of 20 MiB": answers(b"x" * (20 * 2**20), "500 Busy"),
    "a bomb of 64 MiB": bomb_of(64),
    "a bomb in a bomb": bomb_of(256, times=3),
    "gzip that is cut": answers(gzip.compress(b'{"a": ""}')[:-9], Content_Encoding="gzip"),
    "gzip that is none": answers(b'{"rewards": [1]}', Content_Encoding="gzip"),
    "rubbish for ever behind gzip": for_ever(
        head("Content-Encoding: gzip") + gzip.compress(b" "), bytes(2**16)
    ),
    "deflate that is none": answers(b"\xff" * 99, Content_Encoding="deflate"),
    "an encoding nobody knows": answers(b"\x8b\x00\x80", Content_Encoding="br, x-odd"),
    "seven encodings": answers(b"{}", Content_Encoding=", ".join(["gzip"] * 7)),
    "no content": sends(head(status="204 No Content")),
    "not modified": sends(head(status="304 Not Modified")),
    "a partial answer": answers("[1", "206 Partial"),
    "an empty body": answers(""),
    "blanks": answers(" \r\n\t"),
    "bytes that are no UTF-8": answers(b'{"a": "\xff\xfe"}'),
    "UTF-16": answers('{"rewards": [1]}'.encode("utf-16")),
    "the charset hex": answers("zz", Content_Type="application/json; charset=hex"),
    "a charset of no name": answers("zz", Content_Type="text/plain; charset=\x01"),
    "lists in lists": answers("[" * 200_000),
    "objects in objects": answers('{"a":' * 200_000),
    "a number of 5,000 digits": answers('{"rewards": [%s]}' % ("9" * 5000)),
    "one name twice": answers('{"rewards": [1], "rewards": [2], "choices": [], "choices": []}'),
    "JSON that is cut": answers('{"rewards": [1, '),
    "two values": answers("{} {}"),
    "a page": answers("<!doctype html><h1>busy</h1>", Content_Type="text/html"),
    "events": answers('data: {"rewards": [1]}\n\n', Content_Type="text/event-stream"),
    "null": says(None),
    "a number": says(1),
    "a text": says("busy"),
    "a list": says([{"rewards": [1]}]),
    "an empty object": says({}),
    "escape codes": answers(ESCAPES),
    "escape codes in an error": says({"error": {"message": ESCAPES}}, "400 Bad"),
    "escape codes in a fault": says({"error": {"message": ESCAPES}}, "500 Busy"),
    "a half surrogate": says({"error": {"message": "\ud83c", "code": "\udfff"}}, "400 Bad"),
    "an error inside a 200": says({"error": {"message": "overloaded", "code": 502}}),
    "an error that is a list": says([{"error": [1, None]}], "400 Bad"),
    "an error of deep JSON": answers("[" * 200_000, "400 Bad"),
    "401": says({"error": {"message": "wrong key", "code": None}}, "401 No"),
    "402": says({"error": {"message": "pay", "code": "insufficient_balance"}}, "402 Pay"),
    "404": answers("not here", "404 No"),
    "422 with the prompt": says({"detail": [{"loc": "a", "msg": "no", "input": {}}]}, "422 No"),
    "429 with an odd wait": answers("busy", "429 Busy", Retry_After="9" * 400),
    "500 with a cookie": answers("busy", "500 Busy", Set_Cookie="a=b; Domain=.openai.com"),
    "503 whose wait is no date": answers("busy", "503 Busy", Retry_After="Wed, 99 Foo 99999"),
}  # fmt: skip


def redirects(place: str) -> dict[str, Behaviour]:
    """To another address."""
    return {
        f"{status} to another host": answers("", f"{status} Away", Location=place)
        for status in (301, 302, 303, 307, 308)
    }


FOR_REWARD: dict[str, Behaviour] = {
    **COMMON,
    **{
        f"rewards {name}": answers(f'{{"rewards": {text}}}')
        for name, text in {
            "null": "null",
            "of text": '"1"',
            "in an object": '{"0": 1}',
            "too few": "[]",
            "too many": "[1, 2, 3]",
            "a hundred thousand": json.dumps([0] * 100_000),
            "in quotes": '["1", "2"]',
            "true": "[true, false]",
            "null inside": "[null, 1]",
            "in lists": "[[1], [2]]",
            "in deep lists": "[" * 5000 + "]" * 5000,
            "NaN": "[NaN, 1]",
            "infinite": "[Infinity, 1]",
            "beyond floats": "[1e999, 1]",
            "of 400 digits": "[%s, 1]" % ("9" * 400),
            "beyond float32": "[-1e39, 1]",
        }.items()
    },
}  # fmt: skip


def completion(
    content: Any = "M", finish: Any = "stop", logprobs: Any = None, **message: Any
) -> dict[str, Any]:
    """A chat completion that says M."""
    told = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": finish, "message": told, "logprobs": logprobs}
    usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}


def logprobs_of(*top: Any) -> dict[str, Any]:
    return {"content": [{"token": "M", "logprob": -0.1, "top_logprobs": list(top)}]}


def choices(value: Any) -> Behaviour:
    return says({**completion(), "choices": value})


FOR_JUDGE: dict[str, Behaviour] = {
    **COMMON,
    "choices null": choices(None),
    "no choice": choices([]),
    "choices in an object": choices({"0": completion()["choices"][0]}),
    "a choice null": choices([None]),
    "a choice of text": choices(["M"]),
    "a choice without a message": choices([{"index": 0, "text": "M"}]),
    "a choice with an error": choices([{"finish_reason": "error", "error": {"code": 429}}]),
    "a message null": choices([{"message": None}]),
    "a message of text": choices([{"message": "M"}]),
    "content null": says(completion(None)),
    "content a number": says(completion(1)),
    "content in parts": says(completion([{"type": "text", "text": "M"}])),
    "content empty": says(completion("")),
    "content of escape codes": says(completion(ESCAPES)),
    "content of half a surrogate": says(completion("\ud83c")),
    "content of a million letters": says(completion("m" * 10**6)),
    "a sentence": says(completion("Both are good.")),
    "a question": says(completion("M or m?")),
    "reasoning without an end": says(completion("<think>M is longer, so M")),
    "cut before any answer": says(completion("", "length")),
    "a refusal": says(completion(None, refusal="I cannot compare these.")),
    "a filter": says(completion("", "content_filter")),
    "a call of a tool": says(completion(None, "tool_calls", tool_calls=[{"id": "1"}])),
    "a log-prob NaN": answers(json.dumps(completion(
        logprobs=logprobs_of({"token": "M", "logprob": float("nan")})))),
    "a log-prob null": says(completion(logprobs=logprobs_of({"token": "M", "logprob": None}))),
    "a log-prob above zero": says(completion(logprobs=logprobs_of({"token": "M", "logprob": 5}))),
    "a log-prob of 400 digits": says(
        completion(logprobs=logprobs_of({"token": "M", "logprob": -(10**400)}))),
    "a token null": says(completion(logprobs=logprobs_of({"token": None, "logprob": -1}))),
    "log-probs of text": says(completion(logprobs=logprobs_of("M"))),
}  # fmt: skip


class BadServer:
    """Reads each request whole, then behaves; ``requests`` are what came, ``count`` how many."""

    def __init__(self, behaviour: Behaviour):
        self.behaviour = behaviour
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.closing = False
        self.accepting = threading.Thread(target=self._accept, daemon=True)
        self.accepting.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            if self.closing:
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if request := _read(connection):
                    self.requests.append(request)
                    self.behaviour(connection)
            except OSError:  # the client hung up
                return

    def headers(self) -> Mapping[str, str]:
        """Of the last request."""
        lines = self.requests[-1].partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    def close(self) -> None:
        """The thread ends first: left in ``accept``, it would take the connections of whoever gets
        the listener's file number next."""
        self.closing = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.accepting.join()
        self.listener.close()


def _read(connection: socket.socket) -> bytes:
    """One request, head and body; empty where the client hung up before it."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := connection.recv(2**16)):
            return b""
        data += part
    top, _, body = data.partition(b"\r\n\r\n")
    lines = dict(line.lower().split(b": ", 1) for line in top.split(b"\r\n")[1:])
    left = int(lines.get(b"content-length", b"0")) - len(body)
    while left > 0 and (part := connection.recv(2**16)):
        data, left = data + part, left - len(part)
    return data
