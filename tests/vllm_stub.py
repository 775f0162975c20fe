"""A vLLM server on loopback as far as lsp/rollout/vllm_api.py speaks to it: it samples from a real
model, token by token, and takes adapters and weights from folders. ``faults`` spoil its answers."""

import copy
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file

METRICS = """# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="16",engine="0",kv_cache_size_tokens="{}"}} 1.0
"""


class VllmStub:
    """``name``: what its base is served as. ``faults``: what the next completions get instead, one
    each; ``always``: what every one gets. ``pushes``: what the next calls that are no completion
    get, by path. ``room``: tokens of keys and values; None: it does not tell. ``bodies``: what was
    asked for, ``calls`` the other paths."""

    def __init__(self, model, name="policy", room=100_000, max_model_len=128):
        self.models = {name: copy.deepcopy(model).eval()}
        self.name, self.room, self.max_model_len = name, room, max_model_len
        self.faults: list[str] = []
        self.always, self.version, self.paused = "", "default", False
        self.pushes: dict[str, str] = {}
        self.bodies: list[dict] = []
        self.calls: list[str] = []
        self.busy = self.most_busy = 0
        self.lock, self.sampling = threading.Lock(), threading.Lock()
        self.server = _server(self)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path, body):
        """(status, what is sent) of one call."""
        if path == "/v1/completions":
            return self.complete(body)
        with self.lock:
            self.calls.append(path)
        fault = self.pushes.get(path, "")
        if fault.isdigit():
            return int(fault), "the engine is broken"
        if fault and fault != "spoiled":
            return 200, fault
        match path.split("?")[0]:
            case "/v1/models":
                limits = {name: None for name in self.models} | {self.name: self.max_model_len}
                return 200, {"data": [{"id": n, "max_model_len": m} for n, m in limits.items()]}
            case "/metrics":
                return 200, "" if self.room is None else METRICS.format(self.room)
            case "/v1/load_lora_adapter":
                base = self.models[self.name]
                model = PeftModel.from_pretrained(copy.deepcopy(base), body["lora_path"]).eval()
                self.models[body["lora_name"]] = base if fault == "spoiled" else model
                return 200, f"Success: LoRA adapter '{body['lora_name']}' added successfully."
            case "/v1/unload_lora_adapter":
                del self.models[body["lora_name"]]
                return 200, "Success"
            case "/pause":
                self.paused = True
            case "/collective_rpc":
                assert self.paused and body["method"] == "take_weights"
                weights = load_file(Path(body["args"][0]) / "model.safetensors")
                if fault != "spoiled":
                    self.models[self.name].load_state_dict(weights, strict=False)
                return 200, {"results": [{"tensors": len(weights)}]}
            case "/reset_prefix_cache":
                return 200, {"success": True}
            case "/update_weight_version":
                self.version = body["new_version"]
            case "/weight_info":
                return 200, {"weight_version": self.version}
            case "/resume":
                self.paused = False
            case _:
                return 404, {"detail": "Not Found"}
        return 200, {"status": "done"}

    def complete(self, body):
        with self.lock:
            self.bodies.append(body)
            fault = self.faults.pop(0) if self.faults else self.always
            self.busy += 1
            self.most_busy = max(self.busy, self.most_busy)
        try:
            if fault.isdigit():
                return int(fault), "no"
            if fault in ("slow", "cut"):
                time.sleep(1.0 if fault == "slow" else 0.0)
                return 0, ""
            if body["model"] not in self.models:
                return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
            assert not self.paused
            with self.sampling:
                choice = self.sampled(body)
            return 200, spoiled(choice, fault)
        finally:
            with self.lock:
                self.busy -= 1

    @torch.no_grad()
    def sampled(self, body):
        """One row by the plainest loop there is: a whole forward pass for each token."""
        model, generator = self.models[body["model"]], torch.Generator().manual_seed(body["seed"])
        ids, prompt, logprobs = [], body["prompt"], []
        reason = "length"
        while len(ids) < body["max_tokens"]:
            logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1].float()
            scores = torch.log_softmax(logits / (body["temperature"] or 1.0), dim=-1)
            noise = torch.rand(len(scores), generator=generator).log().neg().log().neg()
            token = int((scores + noise * bool(body["temperature"])).argmax())
            ids.append(token)
            logprobs.append(float(scores[token]))
            if token in body["stop_token_ids"]:
                reason = "stop"
                break
        return {
            "index": 0,
            "text": "",
            "token_ids": ids,
            "prompt_token_ids": prompt,
            "logprobs": {"token_logprobs": logprobs, "tokens": [f"token_id:{i}" for i in ids]},
            "finish_reason": reason,
        }


def spoiled(choice, fault):
    """A completion with one thing wrong; whole where ``fault`` is empty, ``fault`` itself where it
    is no name of one."""
    match fault:
        case "two rows":
            return {"choices": [choice, choice]}
        case "no rows":
            return {"choices": []}
        case "no log-probabilities":
            choice["logprobs"] = None
        case "one is null":
            choice["logprobs"]["token_logprobs"][0] = None
        case "one too few":
            choice["logprobs"]["token_logprobs"].pop()
        case "above zero":
            choice["logprobs"]["token_logprobs"][0] = 0.5
        case "no ids":
            del choice["token_ids"]
        case "strange ids":
            choice["token_ids"][0] = 10**6
        case "none at all":
            choice["token_ids"], choice["logprobs"]["token_logprobs"] = [], []
        case "another prompt":
            choice["prompt_token_ids"] = [1, 2, 3]
        case "aborted":
            choice["finish_reason"] = "abort"
        case "stops early":
            choice["finish_reason"] = "stop"
            choice["token_ids"][-1] = 30
        case "" | "spoiled":
            pass
        case _:
            return fault
    return {"choices": [choice]}


def _server(stub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.reply(*stub.answer(self.path, None))

        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            self.reply(*stub.answer(self.path, json.loads(content) if content else None))

        def reply(self, status, answer):
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512

        def handle_error(self, request, client_address):
            """A client that hung up is part of the play."""

    return Server(("127.0.0.1", 0), Handler)
