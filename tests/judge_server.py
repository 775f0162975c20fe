"""A judge on loopback that speaks chat completions and can misbehave."""

import json
import math
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("429", "500", "cut", "slow", "wrong json", "no logprobs", "empty", "not a verdict")


class JudgeServer:
    """Chat completions on loopback. Prefers the longer output, by log-probs; ``fault_rate`` of the
    calls go wrong in one of FAULTS' ways."""

    def __init__(self, fault_rate=0.0, delay=0.0, logprobs=True):
        self.fault_rate, self.delay, self.logprobs = fault_rate, delay, logprobs
        self.requests: list[dict] = []
        self.keys: set[str] = set()
        self.always: str | None = None
        self.refused: str | None = None
        self.random = random.Random(7)
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer.lock:
                    outer.requests.append(body)
                    outer.keys.add(self.headers["authorization"])
                    fault = None
                    if outer.random.random() < outer.fault_rate:
                        fault = outer.random.choice(FAULTS)
                    fault = outer.always or fault
                time.sleep(outer.delay)
                outer.answer(self, body, fault)

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256  # all of a test's connections may arrive at once

            def handle_error(self, request, client_address):
                """A client that hung up is part of the play; anything else is shown."""
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client_address)

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, handler, body, fault):
        if fault == "cut":
            handler.close_connection = True
            handler.connection.close()
            return
        if fault in ("401", "429", "500"):
            self.send(handler, int(fault), b'{"error": {"message": "busy"}}', {"Retry-After": "0"})
            return
        if fault == "quota":
            self.send(handler, 429, b'{"error": {"code": "insufficient_quota", "message": "pay"}}')
            return
        if self.refused and self.refused in body["messages"][1]["content"]:
            self.send(handler, 400, b'{"error": {"message": "context length exceeded"}}')
            return
        if fault == "slow":
            time.sleep(1.5)
        data = json.loads(body["messages"][1]["content"].split("\n\n")[1])
        second = len(data["output_M"]) > len(data["output_m"])
        text = {"empty": "", "not a verdict": "Both are good."}.get(fault, "M" if second else "m")
        top = [
            {"token": "M", "logprob": math.log(0.9 if second else 0.1), "bytes": None},
            {"token": "m", "logprob": math.log(0.1 if second else 0.9), "bytes": None},
        ]
        if fault in ("empty", "not a verdict"):
            top = [{"token": text[:4], "logprob": 0.0, "bytes": None}]
        content = [{"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": top}]
        with_logprobs = self.logprobs and fault != "no logprobs"
        response = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                    "logprobs": {"content": content} if with_logprobs else None,
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101},
        }
        (choice,) = response["choices"]
        if fault == "wrong json":
            response = {"surprise": True}
        elif fault == "nan":
            top[0]["logprob"] = math.nan
        elif fault == "null logprob":
            top[0]["logprob"] = None
        elif fault == "null token":
            top[0]["token"] = None
        elif fault == "parts":
            choice["message"]["content"] = [{"type": "text", "text": "m"}]
        self.send(handler, 200, json.dumps(response).encode())

    def send(self, handler, status, content, headers=()):
        handler.send_response(status)
        for name, value in {"content-type": "application/json", **dict(headers)}.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


class GradingServer(JudgeServer):
    """The judge of ``reward=judge``, by a rule: the grade of an answer is its length, 9 at most,
    with probability 3/4, else 0. Of two answers it prefers the longer one with probability 0.9, a
    tie's first. As an opponent it answers a query by its first two letters. An answer that holds
    one of ODD's words meets that."""

    ODD = ("REFUSED", "FILTERED", "MUMBLED", "TOO LONG", "BUSY")

    def answer(self, handler, body, fault):
        asked = body["messages"][-1]["content"]
        odd = next((word for word in self.ODD if word in asked), fault)
        if odd in ("TOO LONG", "BUSY", "401"):
            status = {"TOO LONG": 400, "BUSY": 500, "401": 401}[odd]
            self.send(handler, status, b'{"error": {"message": "context length exceeded"}}')
            return
        if odd in ("temperature", "max_tokens"):
            told = f"Unsupported parameter: '{odd}' is not supported with this model."
            self.send(handler, 400, json.dumps({"error": {"message": told}}).encode())
            return
        text, top, message = asked[:2], {}, {}
        if "JSON" in asked:
            texts = json.loads(asked.split("\n\n")[1])
            if "answer" in texts:
                text = str(min(9, len(texts["answer"])))
                top = {text: 0.75, "0": 0.25} if text != "0" else {text: 1.0}
            else:
                text = "2" if len(texts["answer_2"]) > len(texts["answer_1"]) else "1"
                top = {text: 0.9, {"1": "2", "2": "1"}[text]: 0.1}
        if odd == "MUMBLED":
            text, top = "perhaps a 7", {"perhaps": 1.0}
        if odd == "REFUSED":
            message = {"refusal": "I cannot grade this."}
        listed = [{"token": token, "logprob": math.log(p)} for token, p in top.items()]
        with_logprobs = self.logprobs and body.get("logprobs")
        logprobs = {"content": [{"top_logprobs": listed}]} if with_logprobs else None
        choice = {
            "finish_reason": "content_filter" if odd == "FILTERED" else "stop",
            "message": {"role": "assistant", "content": text, **message},
            "logprobs": logprobs,
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 1}
        self.send(handler, 200, json.dumps({"choices": [choice], "usage": usage}).encode())
