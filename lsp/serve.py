"""``lsp serve <the settings of a run>``: the vLLM server that its rollouts need.

    lsp serve experiment=… rollout.engine=vllm rollout.url=http://127.0.0.1:8000
    lsp serve start=true python=~/vllm/bin/python <the same> -- --tensor-parallel-size 2

Prints a command for each address in ``rollout.url``, or with ``start=true`` becomes one of them:
the init's weights, the run's dtype, log-probabilities as they are sampled, room for the longest
rows, adapters or the worker extension that takes new weights (docs/engines.md). vLLM is in an
environment of its own; what stands behind ``--`` is vLLM's.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lsp.cli.main import run
from lsp.contracts import BuildContext, build_part
from lsp.errors import RunError
from lsp.loop.launch import thread_environment
from lsp.model.shapes import cache_bytes, shape_of
from lsp.plan.step_size import BYTES_PER_NUMBER, is_for_this_cpu
from lsp.rollout.settings import Vllm
from lsp.run.init import NoEarlierRun, resolve_init
from lsp.settings.command import read_settings, split_settings
from lsp.settings.compose import compose
from lsp.settings.config import Config, local_model_folder
from lsp.settings.schema import setting, settings

EXTENSION = Path(__file__).parent / "rollout" / "vllm_server"
"""The folder of the one file that a server imports of this project."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM 0.32 makes room for (``vllm/config/lora.py``)."""
CPU_BLOCK = 128
"""Tokens of a block of keys and values on a CPU."""
SHORTEST_LIMIT = 4096
"""Tokens of a row that are allowed where the model has them: an evaluation may ask for more than a
step does."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerCommand:
    """``environment``: what is set beside the shell's; ``words``: the command itself."""

    environment: dict[str, str]
    words: list[str]

    def __str__(self) -> str:
        assignments = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*assignments, shlex.join(self.words)])


@settings
class ServeSettings:
    """This command's own settings, beside those of the run that is served."""

    start: bool = setting("become the server, in place of this", default=False)
    number: int = setting("which address start=true serves", default=0, ge=0, le=10_000)
    python: str = setting("of the environment that has vLLM", default="python")


def main(arguments: Sequence[str]) -> None:
    thread_environment()
    own, more = list(arguments), []
    if "--" in own:
        place = own.index("--")
        own, more = own[:place], own[place + 1 :]
    words, of_run = split_settings(ServeSettings, own)
    chosen = read_settings(ServeSettings, words)
    python = os.path.expanduser(chosen.python)
    try:
        config = compose(of_run)
        commands = server_commands(config, python, more)
    except ValueError as error:  # a text for the user
        raise RunError(str(error)) from error
    if chosen.start and not chosen.number < len(commands):
        raise RunError(f"number={chosen.number}: rollout.url has {len(commands)} addresses")
    for url in config.rollout.urls:
        if urlsplit(url).hostname not in LOOPBACK:
            text = f"whoever reaches {url} can change its weights; on a trusted network alone"
            print(f"warning: {text}", file=sys.stderr)
    if not chosen.start:
        print("\n".join(map(str, commands)))
        return
    command = commands[chosen.number]
    print(command, flush=True)
    try:
        os.execvpe(command.words[0], command.words, os.environ | command.environment)
    except OSError as error:
        raise RunError(f"{python} cannot be started ({error}); say python=<path>") from error


def server_commands(config: Config, python: str, more: Sequence[str] = ()) -> list[ServerCommand]:
    """One for each address. Raises RunError or ValueError, with the way out, where a run of these
    settings cannot be served."""
    if not isinstance(config.rollout.engine, Vllm):
        raise RunError(
            "these settings ask no server; say rollout.engine=vllm rollout.url=<address>"
        )
    try:
        init = resolve_init(config)
    except NoEarlierRun as error:
        raise RunError(f"{error}; make it first, or start from init=base") from error
    if init.is_adapter and config.model.lora.rank:
        raise RunError(
            f"the init {init.source} is an adapter, which vLLM would have to hold beside the run's"
            " own; merge it (peft's merge_and_unload) and give that model as init.run, or train all"
            " weights with model.lora.rank=0"
        )
    source = config.model.name if init.is_adapter else init.source
    words = [python, *words_of(config, source, *row_lengths(config, source))]
    environment = environment_of(config)
    return [
        ServerCommand(environment, [*words, *address_of(url), *more]) for url in config.rollout.urls
    ]


def row_lengths(config: Config, source: str) -> tuple[int, int]:
    """(tokens of the longest row that a step will ask for, prompt included; what a server is to
    allow). Of a data set's queries those are left out that the model's context has no place for."""
    from lsp.model.chat import ChatFormat
    from lsp.model.context import check_context, context_of
    from lsp.model.loading import read_files
    from lsp.rollout.vllm import row_tokens

    model = config.model
    files = read_files("CausalLM", source, model.revision, model.trust_remote_code)
    chat = ChatFormat(files.tokenizer, model.date_string, model.template_kwargs)
    given: Sequence[str] = ()
    if config.method.queries == "dataset":
        given = build_part(config.data, BuildContext(config, chat=chat))
    fitting, _ = check_context(files, chat, config, given)
    tokens = row_tokens(config, chat, fitting)
    return tokens, int(min(max(2 * tokens, SHORTEST_LIMIT), context_of(files)))


def environment_of(config: Config) -> dict[str, str]:
    """The switches that let weights in, and nothing of this project's environment but one file."""
    if config.model.lora.rank:
        return {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "PYTHONPATH": ""}
    return {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": str(EXTENSION)}


def words_of(config: Config, source: str, tokens: int, limit: int) -> list[str]:
    """All but the address; ``tokens`` and ``limit`` as of ``row_lengths``. ``vllm serve`` does the
    same as the module, and fails where vLLM is the CPU's package."""
    from lsp.rollout.vllm import POLICY, REFERENCE

    folder, model, rank = local_model_folder(source), config.model, config.model.lora.rank
    words = ["-m", "vllm.entrypoints.openai.api_server"]
    words += ["--model", source if folder is None else str(folder.resolve())]
    if folder is None and model.revision is not None:
        words += ["--revision", model.revision]
    if model.trust_remote_code:
        words.append("--trust-remote-code")
    words += ["--served-model-name", REFERENCE if rank else POLICY]
    words += ["--dtype", config.rollout.engine.dtype_in(config)]
    words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    words += ["--max-model-len", str(limit)]
    rows = min(config.rollout.engine.concurrency, config.num_queries * config.group_size)
    words += ["--max-num-seqs", str(rows)]
    if rank:
        if not (room := [each for each in RANKS if each >= rank]):
            raise RunError(f"vLLM has adapters of rank {RANKS[-1]} at most, and this run's {rank}")
        words += ["--enable-lora", "--max-lora-rank", str(room[0])]
    else:
        words += ["--worker-extension-cls", "lsp_weights.NewWeights"]
    if is_for_this_cpu(config):
        # Where a row has to make room, or its prompt is cut in two, a seed ends vLLM on a CPU.
        number_bytes = BYTES_PER_NUMBER[config.rollout.engine.dtype_in(config)]
        shape = shape_of(source, model.shape if source == model.name else None, "model.shape")
        blocks = max(rows * -(-tokens // CPU_BLOCK), -(-limit // CPU_BLOCK))
        columns = blocks * CPU_BLOCK
        words += ["--kv-cache-memory-bytes", str(columns * cache_bytes(shape, number_bytes))]
        words += ["--enforce-eager", "--no-enable-chunked-prefill"]
        words += ["--max-num-batched-tokens", str(max(limit, SHORTEST_LIMIT))]
    return words


def address_of(url: str) -> list[str]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return ["--host", str(parts.hostname), "--port", str(port)]


if __name__ == "__main__":
    sys.exit(run("serve", sys.argv[1:]))
