"""The one reader of run folders: a folder goes in, what its files hold comes out, checked.

Whatever lies in a run's folder may be damaged, cut short, or somebody else's. So each kind of file
has a limit of size and a schema here, a pipe or a device is never waited for, and all that is wrong
is one error that names the file and the reason, and quotes nothing of it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict  # noqa: UP035 (3.11's own cannot be checked)

from lsp.contracts import Example, HeldOut
from lsp.errors import RunError
from lsp.files import read_bytes
from lsp.tools.text import visible
from lsp.tracking.rows import SCHEMA

RUN_FILE, METRICS, ALERTS, SUMMARY = "run.json", "metrics.jsonl", "alerts.jsonl", "summary.json"
EXAMPLES, HELD_OUT = "examples.json", "held_out.jsonl"
MANIFEST = "trace/manifest.json"
SETTINGS_BYTES, JSON_BYTES, LINES_BYTES, SHARD_BYTES = 2**20, 2**26, 2**32, 2**32
"""Of the largest config.yaml, JSON, metrics.jsonl and shard that are read."""
SHARD_ROWS = 2**24
DEPTH = 32
"""Of YAML's nesting; JSON's is bounded by its parser (about 200)."""

Status = Literal["starting", "running", "finished", "interrupted", "stopped", "failed"]
"""``killed`` is what a run is that says running or starting, while no process holds it."""
Text = Annotated[str, Field(max_length=2**20)]
Id = Annotated[str, Field(pattern=r"^[^/\x00-\x1f\x7f]{1,256}$")]
Step = Annotated[int, Field(ge=0, le=10_000_000)]
"""As many as a run may have (lsp/settings/config.py)."""
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_OPEN = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
_STRICT = ConfigDict(strict=True)


class InitEntry(TypedDict):
    source: Text
    run_id: Id | None
    method: Text | None
    text: Text


class EvaluationEntry(TypedDict):
    name: Text
    labels: dict[str, Text]


class FindingEntry(TypedDict):
    text: Text
    mend: Text
    stops: bool


class WeightEntry(TypedDict):
    weight: FiniteFloat
    step: NonNegativeInt


class RunEntries(TypedDict):
    """run.json; entries that only a person reads may be anything."""

    __pydantic_config__ = _OPEN

    id: Id
    status: Status
    reason: NotRequired[Text]
    method: Text
    world: NotRequired[Text]
    model: Text
    base: Text
    init: InitEntry
    started: FiniteFloat
    seconds: NotRequired[FiniteFloat]
    step: NotRequired[NonNegativeInt]
    seeds: NotRequired[Text | None]
    command: NotRequired[Text]
    git_commit: NotRequired[Text]
    device: NotRequired[Text]
    queries_left_out: NotRequired[NonNegativeInt]
    evaluation: NotRequired[EvaluationEntry | None]
    findings: NotRequired[list[FindingEntry]]
    self_reward_weight: NotRequired[WeightEntry]
    conditions: NotRequired[dict[str, Any]]
    other_conditions: NotRequired[list[dict[str, Any]]]


class MetricsEntries(TypedDict, extra_items=bool | int | FiniteFloat | None):
    """A line of metrics.jsonl."""

    __pydantic_config__ = _STRICT

    step: Step


class AlertEntries(TypedDict):
    step: Step
    text: Text


class StepEntries(TypedDict):
    """Of a step's record: hash of its line in metrics.jsonl; rows and hash of its shard, which a
    line before the first step does not have."""

    step: Step
    line: Hash
    rows: NonNegativeInt
    shard: Hash | None


class GapEntries(TypedDict):
    """What was lost and went on with by consent (accept_gap)."""

    step: Step
    reason: Text


class ManifestEntries(TypedDict):
    """trace/manifest.json, as of a checkpoint."""

    steps: list[StepEntries]
    gaps: list[GapEntries]


class StateEntries(TypedDict):
    """What a checkpoint keeps of its run's record."""

    __pydantic_config__ = _OPEN

    collapse: dict[str, Any]
    best: dict[str, Any]
    skipped_in_a_row: NonNegativeInt
    challenger_baseline: NotRequired[FiniteFloat]


class CheckpointEntries(TypedDict):
    """checkpoint.json."""

    __pydantic_config__ = _OPEN | {"regex_engine": "python-re"}

    step: NonNegativeInt
    state: StateEntries
    files: dict[Annotated[str, Field(pattern=r"^(?!/)(?!.*\.\.)[^\x00]{1,512}$")], Hash]


class ExampleEntries(TypedDict):
    """examples.json has some (lsp.contracts.Example)."""

    prompt: Text
    right_answer: Text | None
    base: Text
    trained: Text


class HeldOutEntries(TypedDict):
    """A line of held_out.jsonl (lsp.contracts.HeldOut)."""

    prompt: Text
    right_answer: Text | None
    weight: Annotated[FiniteFloat, Field(gt=0)]
    base_score: FiniteFloat
    trained_score: FiniteFloat
    base: Text
    trained: Text


T = TypeVar("T")
_RUN = TypeAdapter(RunEntries)
_METRICS = TypeAdapter(MetricsEntries)
_ALERT = TypeAdapter(AlertEntries)
_SUMMARY = TypeAdapter(dict[str, bool | int | FiniteFloat | Text | None], config=_STRICT)
_MANIFEST = TypeAdapter(ManifestEntries)
_EXAMPLES = TypeAdapter(list[ExampleEntries])
_HELD_OUT = TypeAdapter(HeldOutEntries)
_CHECKPOINT = TypeAdapter(CheckpointEntries)


class DamagedFile(RunError):
    """A file of a run's folder cannot be used; its text names file and reason."""


def read_json(path: Path, kind: TypeAdapter[T], limit: int = JSON_BYTES) -> T:
    """A file of JSON that is of this kind. Raises DamagedFile."""
    try:
        return kind.validate_json(read_bytes(path, limit))
    except (OSError, ValueError) as error:
        raise DamagedFile(f"{path} cannot be read: {reason_of(error)}") from error


def read_json_lines(path: Path, kind: TypeAdapter[T]) -> list[T]:
    """One value a line, without the last one where a kill cut it short; none of a file that is not
    there. Raises DamagedFile."""
    return [line.entries for line in whole_lines(_lines(path, kind), path)]


def read_run_file(run: Path) -> dict[str, Any]:
    return read_json(run / RUN_FILE, _RUN)


def read_summary(run: Path) -> dict[str, Any]:
    return read_json(run / SUMMARY, _SUMMARY)


def read_examples(run: Path) -> list[Example]:
    """None of a run that has not ended, or was written by an earlier version."""
    path = run / EXAMPLES
    entries = read_json(path, _EXAMPLES) if path.exists() else []
    return [Example(**each) for each in entries]


def read_held_out(run: Path) -> list[HeldOut]:
    """None of a run that has not ended, has no evaluation that keeps its scores, or was written by
    an earlier version."""
    return [HeldOut(**each) for each in read_json_lines(run / HELD_OUT, _HELD_OUT)]


def read_manifest(run: Path) -> ManifestEntries:
    """An empty one where there is none: a run before its first checkpoint, or of an earlier
    version."""
    if not (run / MANIFEST).exists():
        return {"steps": [], "gaps": []}
    return read_json(run / MANIFEST, _MANIFEST, LINES_BYTES)


def read_checkpoint_file(checkpoint: Path) -> dict[str, Any]:
    return read_json(checkpoint / "checkpoint.json", _CHECKPOINT)


def read_settings_file(run: Path) -> dict[str, Any]:
    """The tree of a run's config.yaml as it was written."""
    path = run / "config.yaml"
    try:
        tree = yaml.load(read_bytes(path, SETTINGS_BYTES), _BoundedLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DamagedFile(f"{path} cannot be read: {reason_of(error)}") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise DamagedFile(f"{path} holds no settings")
    return tree


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """One dict a step, in the order written; none where the file is not there yet."""
    return [line.entries for line in whole_lines(metrics_lines(run), run / METRICS)]


def read_alerts(run: Path) -> list[dict[str, Any]]:
    return [line.entries for line in whole_lines(alert_lines(run), run / ALERTS)]


class Line(NamedTuple):
    """A line of a file that grows: its bytes, its end included; its entries, or why it has none."""

    written: bytes
    entries: Any
    reason: str = ""

    @property
    def step(self) -> int | None:
        return None if self.entries is None else self.entries["step"]


def metrics_lines(run: Path) -> list[Line]:
    return _lines(run / METRICS, _METRICS)


def metrics_line(written: bytes) -> Line:
    """One of them."""
    return _line(written, _METRICS)


def alert_lines(run: Path) -> list[Line]:
    return _lines(run / ALERTS, _ALERT)


def whole_lines(lines: Sequence[Line], path: Path) -> list[Line]:
    """Without the last one where a kill cut it short. Raises DamagedFile for another that cannot
    be read."""
    if lines and lines[-1].entries is None and not lines[-1].written.endswith(b"\n"):
        lines = lines[:-1]
    for number, line in enumerate(lines, 1):
        if line.entries is None:
            raise DamagedFile(f"{path}, line {number}: {line.reason}")
    return list(lines)


def trace_steps(run: Path) -> list[int]:
    """Steps that have a trace shard, ascending."""
    names = [path.stem for path in (run / "trace").glob("step-*.parquet")]
    steps = [int(name[5:]) for name in names if re.fullmatch(r"step-\d{6,8}", name)]
    return sorted(step for step in steps if shard(run, step).stem in names)


def shard(run: Path, step: int) -> Path:
    """The file of a step's rows."""
    return run / "trace" / f"step-{step:06d}.parquet"


def read_trace(
    run: Path, steps: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Trace rows in the order of steps; all steps and columns by default."""
    rows: list[dict[str, Any]] = []
    for step in trace_steps(run) if steps is None else steps:
        rows += _shard_table(shard(run, step), columns).to_pylist()
    return rows


def read_table(
    run: Path, steps: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """``read_trace`` as a table; columns that a step's rows lack are null there."""
    tables = [
        _shard_table(shard(run, s), columns) for s in (trace_steps(run) if steps is None else steps)
    ]
    if not tables:
        return SCHEMA.empty_table().select(list(columns or SCHEMA.names))
    return pa.concat_tables(tables, promote_options="default")


def read_columns(run: Path, step: int, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Column -> its values in the rows of one step."""
    return _shard_table(shard(run, step), columns).to_pydict()


def shard_columns(run: Path, step: int) -> list[str]:
    return _shard_table(shard(run, step), None).column_names


def _shard_table(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """Raises DamagedFile for what is no shard, of too many rows, or lacks a column."""
    try:
        with pq.ParquetFile(pa.BufferReader(read_bytes(path, SHARD_BYTES))) as file:
            if file.metadata.num_rows > SHARD_ROWS:
                raise ValueError(f"it says that it has {file.metadata.num_rows:,} rows")
            names = file.schema_arrow.names
            if absent := sorted(set(columns or ()) - set(names)):
                raise ValueError(f"it has no column {', '.join(absent)}")
            for name in columns or set(names).intersection(SCHEMA.names):
                if file.schema_arrow.field(name).type != SCHEMA.field(name).type:
                    raise ValueError(f"its column {name} is not {SCHEMA.field(name).type}")
            return file.read(columns=columns and list(columns), use_threads=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedFile(f"{path} cannot be read: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, on one line, without its contents."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return visible(f"{place}: {first['msg']}" if place else first["msg"], 300)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        line = error.problem_mark.line + 1
        return visible(f"{error.problem or error.context}, in line {line}", 300)
    return visible(" ".join(str(error).split()), 300) or type(error).__name__


def _lines(path: Path, kind: TypeAdapter[T]) -> list[Line]:
    """None where the file is not there."""
    if not path.exists():
        return []
    try:
        written = read_bytes(path, LINES_BYTES)
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {reason_of(error)}") from error
    return [_line(line, kind) for line in re.findall(rb"[^\n]*\n|[^\n]+", written)]


def _line(written: bytes, kind: TypeAdapter[T]) -> Line:
    try:
        return Line(written, kind.validate_json(written))
    except ValueError as error:
        return Line(written, None, reason_of(error))


class _BoundedLoader(yaml.SafeLoader):
    """YAML without aliases, which this program never writes and which a few lines make endless."""

    def __init__(self, stream: bytes):
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*), which no saved settings have")
        self._depth += 1
        if self._depth > DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {DEPTH}")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1
