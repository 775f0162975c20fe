"""A W&B server on loopback, as much of one as the real client needs, that remembers what it got.

The client's own process (wandb-core) talks GraphQL, a file stream, and plain uploads; it gives up
on an answer of the wrong shape, so every operation here was tried against wandb 0.31.0. ``down``
closes every connection unanswered. ``received`` has each request's path and body. ``unknown`` and
``errors`` are what a test should find empty.
"""

import gzip
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, product
from typing import Any
from urllib.parse import unquote

import yaml
from wandb_artifacts import ENTITY, Artifacts, StubArtifact

KEY = "0123456789" * 4


@dataclass
class StubRun:
    """One run as the server knows it; ``history`` are the logged rows."""

    name: str
    project: str
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    display_name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    sweep: str | None = None
    exit_code: int | None = None
    alerts: list[dict] = field(default_factory=list)
    uses: list[str] = field(default_factory=list)
    resumed: int = 0


class WandbStub(Artifacts):
    """``with WandbStub() as stub:`` serves on ``stub.url``."""

    def __init__(self):
        self.runs: dict[str, StubRun] = {}
        self.artifacts: dict[str, StubArtifact] = {}
        self.sweeps: dict[str, dict] = {}
        self.views: dict[str, dict] = {}
        self.uploads: dict[str, tuple[Any, str]] = {}
        self.operations: list[str] = []
        self.received: list[bytes] = []
        self.unknown: list[str] = []
        self.errors: list[str] = []
        self.down = False
        self._numbers = count(1)
        self._lock = threading.RLock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length)
                if stub.down:
                    self.close_connection = True
                    self.connection.close()
                    return
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                stub.received.append(self.path.encode() + body)
                with stub._lock:
                    content, kind = stub._answer(self.command, unquote(self.path), body)
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = handle_any

            def log_message(self, *arguments):
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request, address):
                error = sys.exc_info()[1]
                if not isinstance(error, ConnectionError):  # clients end by closing
                    stub.errors.append(repr(error))

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "WandbStub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """What a process needs to talk to this server and to nothing else."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
        }

    # -- transport

    def _answer(self, method: str, path: str, body: bytes) -> tuple[bytes, str]:
        if path.startswith("/graphql"):
            request = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            name = operation[1] if operation else ""
            self.operations.append(name)
            answer = getattr(self, f"_op_{name}", None)
            if answer is None:
                self.unknown.append(request["query"])
                return json.dumps({"data": {}}).encode(), "application/json"
            variables = request.get("variables") or {}
            data = answer(variables.get("input") or variables)
            return json.dumps({"data": data}).encode(), "application/json"
        if path.endswith("/file_stream"):
            self._stream(path.split("/")[-2], json.loads(body))
            return b"{}", "application/json"
        if path.startswith("/storage/"):
            place, name = self.uploads[path]
            if method == "GET":
                return place[name], "application/octet-stream"
            place[name] = body
        return b"{}", "application/json"

    def _upload_url(self, place: dict[str, bytes], name: str) -> str:
        path = f"/storage/{next(self._numbers)}"
        self.uploads[path] = (place, name)
        return self.url + path

    def _stream(self, run_name: str, body: dict) -> None:
        run = self.runs[run_name]
        for name, part in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl" and part["content"]:
                del run.history[part["offset"] :]
                run.history += map(json.loads, part["content"])
            elif name == "wandb-summary.json" and part["content"]:
                run.summary = json.loads(part["content"][-1])
        if body.get("complete"):
            run.exit_code = body.get("exitcode")

    # -- runs

    def _op_Viewer(self, v: dict) -> dict:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"viewer": {"id": "u", "entity": ENTITY, "username": ENTITY, "name": ENTITY,
                           "flags": "{}", "teams": teams, "email": "a@b.c", "admin": False,
                           "deletedAt": None, "apiKeys": {"edges": []}}}  # fmt: skip

    _op_GetDefaultEntity = _op_Viewer

    def _op_ServerFeaturesQuery(self, v: dict) -> dict:
        return {"serverInfo": {"features": []}}

    def _bucket(self, run: StubRun) -> dict:
        return {"id": f"id-{run.name}", "name": run.name, "displayName": run.display_name,
                "description": None, "sweepName": run.sweep,
                "config": json.dumps({k: {"value": x} for k, x in run.config.items()}),
                "historyLineCount": len(run.history),
                "project": {"id": "p", "name": run.project,
                            "entity": {"id": "e", "name": ENTITY}}}  # fmt: skip

    def _op_RunResumeStatus(self, v: dict) -> dict:
        run = self.runs.get(v["name"])
        if run is None:
            return {"model": {"id": "p", "name": v["project"],
                              "entity": {"id": "e", "name": ENTITY}, "bucket": None}}  # fmt: skip
        run.resumed += 1
        tail = json.dumps([json.dumps(run.history[-1])] if run.history else [])
        bucket = {**self._bucket(run), "summaryMetrics": json.dumps(run.summary),
                  "historyTail": tail, "eventsTail": "[]", "eventsLineCount": 0,
                  "logLineCount": 0, "wandbConfig": json.dumps(run.config.get("_wandb", {})),
                  "tags": run.tags}  # fmt: skip
        entity = {"id": "e", "name": ENTITY}
        return {"model": {"id": "p", "name": run.project, "entity": entity, "bucket": bucket}}

    def _op_UpsertBucket(self, v: dict) -> dict:
        name = v.get("name") or v["id"].removeprefix("id-")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StubRun(name, v.get("project") or "uncategorized"))
        if v.get("config"):
            run.config = {k: x["value"] for k, x in json.loads(v["config"]).items()}
        for key, attribute in (("displayName", "display_name"), ("groupName", "group"),
                               ("jobType", "job_type"), ("tags", "tags"),
                               ("sweep", "sweep")):  # fmt: skip
            if v.get(key):
                setattr(run, attribute, v[key])
        if v.get("summaryMetrics"):
            run.summary = json.loads(v["summaryMetrics"])
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _op_Run(self, v: dict) -> dict:
        run = self.runs.get(v["name"])
        if run is None:
            return {"project": {"run": None}}
        more = {"projectId": "1", "tags": run.tags, "state": "finished", "group": run.group,
                "jobType": run.job_type, "commit": None, "readOnly": False, "notes": None,
                "createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00",
                "systemMetrics": "{}", "summaryMetrics": json.dumps(run.summary),
                "user": {"name": ENTITY, "username": ENTITY},
                "historyKeys": self._keys(run)}  # fmt: skip
        return {"project": {"run": {**self._bucket(run), **more}}}

    def _op_RunHistoryKeys(self, v: dict) -> dict:
        return {"project": {"run": {"historyKeys": self._keys(self.runs[v["name"]])}}}

    @staticmethod
    def _keys(run: StubRun) -> dict:
        last = max((row["_step"] for row in run.history), default=-1)
        return {"lastStep": last, "sets": [], "keys": {}}

    def _op_RunParquetHistory(self, v: dict) -> dict:
        history = {"parquetUrls": [], "liveData": self.runs[v["runName"]].history}
        return {"project": {"run": {"parquetHistory": history}}}

    def _op_SampledHistoryPage(self, v: dict) -> dict:
        keys = {*json.loads(v["spec"])["keys"], "_step"}
        rows = [{k: x for k, x in row.items() if k in keys} for row in self.runs[v["run"]].history]
        return {"project": {"run": {"sampledHistory": [rows]}}}

    def _op_CreateRunFiles(self, v: dict) -> dict:
        run = self.runs[v["run"]]
        files = [
            {"name": name, "uploadUrl": self._upload_url(run.files, name)} for name in v["files"]
        ]
        return {"createRunFiles": {"runID": f"id-{run.name}", "uploadHeaders": [], "files": files}}

    def _op_NotifyScriptableRunAlert(self, v: dict) -> dict:
        self.runs[v["runName"]].alerts.append({"title": v["title"], "text": v["text"]})
        return {"notifyScriptableRunAlert": {"success": True}}

    # -- saved views, as wandb-workspaces 0.4.13 asks for them

    def _op_View(self, v: dict) -> dict:
        if v["projectName"] not in {run.project for run in self.runs.values()}:
            return {"project": None}
        view = self.views.get(v["viewName"])
        return {"project": {"allViews": {"edges": [{"node": view}] if view else []}}}

    def _op_UpsertView2(self, v: dict) -> dict:
        known = self.views.get(v["name"])
        assert v.get("id") == (known["id"] if known else None)  # else there would be two
        view = {key: v[key] for key in ("name", "displayName", "spec", "entityName", "type")}
        self.views[v["name"]] = {"id": f"id-{v['name']}", **view}
        made = {"id": f"id-{v['name']}", "name": v["name"]}
        return {"upsertView": {"view": made, "inserted": known is None}}

    # -- sweeps

    def _op_UpsertSweep(self, v: dict) -> dict:
        """A grid sweep; its points are handed out in order."""
        config = yaml.safe_load(v["config"])
        names = list(config["parameters"])
        options = [p["values"] if "values" in p else [p["value"]]
                   for p in config["parameters"].values()]  # fmt: skip
        name = f"sweep{next(self._numbers)}"
        points = [dict(zip(names, values, strict=True)) for values in product(*options)]
        self.sweeps[name] = {"config": v["config"], "points": points, "project": v["projectName"]}
        return {"upsertSweep": {"sweep": self._sweep(name), "configValidationWarnings": []}}

    def _sweep(self, name: str) -> dict:
        entity = {"id": "e", "name": ENTITY}
        project = {"id": "p", "name": self.sweeps[name]["project"], "entity": entity}
        return {"id": f"id-{name}", "name": name, "method": "grid", "state": "RUNNING",
                "description": None, "config": self.sweeps[name]["config"], "createdAt": "",
                "heartbeatAt": "", "updatedAt": "", "earlyStopJobRunning": False,
                "controller": None, "scheduler": None, "runs": {"edges": []},
                "project": project}  # fmt: skip

    def _op_SweepWithRuns(self, v: dict) -> dict:
        return {"project": {"sweep": self._sweep(v["sweep"])}}

    def _op_CreateAgent(self, v: dict) -> dict:
        agent = {"id": f"agent-{v['sweep']}"}
        return {"createAgent": {"agent": agent}}

    def _op_Heartbeat(self, v: dict) -> dict:
        """One run command at a time, while none of the agent's runs is going; then exit."""
        sweep = self.sweeps[v["id"].removeprefix("agent-")]
        commands = []
        if not json.loads(v.get("runState") or "{}"):
            commands = [{"type": "exit"}]
            if sweep["points"]:
                point = sweep["points"].pop(0)
                run_id = f"swept{next(self._numbers)}"
                arguments = {name: {"value": value} for name, value in point.items()}
                program = yaml.safe_load(sweep["config"])["program"]
                commands = [
                    {"type": "run", "run_id": run_id, "program": program, "args": arguments}
                ]
        agent = {"id": v["id"]}
        return {"agentHeartbeat": {"agent": agent, "commands": json.dumps(commands)}}
