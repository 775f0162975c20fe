"""A run to begin or to go on with goes in; one RunError with the way out comes out where it cannot.

A dry run and a start both pass ``check_start``, the one list of what can be known before weights
load. The cheapest comes first: settings, files, then what needs torch. Nothing is made or changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsp.contracts import BuildContext, build_part
from lsp.errors import RunError
from lsp.loop.checks import metrics_of, unknown_objective
from lsp.model.launcher import check_launch
from lsp.model.processes import Processes
from lsp.plan.memory import refuse_impossible
from lsp.run.init import Init
from lsp.run.place import check_place, check_resumed_place
from lsp.run.resume import Resumed
from lsp.settings.config import Config, local_model_folder
from lsp.settings.prompts import prompt_file

if TYPE_CHECKING:
    from lsp.model.loading import ModelFiles


def check_start(config: Config, init: Init, resumed: Resumed | None = None) -> None:
    """Raises RunError with the way out. ``init``: what the run starts from; ``resumed``: the run to
    go on with, where there is one."""
    processes = Processes.from_environment()
    check_launch(config, processes.size)
    if resumed is None:
        if reason := unknown_objective(config, metrics_of(config)):
            raise RunError(reason)
        check_place(config)
    else:
        check_resumed_place(resumed.folder)
    config.tracker.announcement()  # an unknown WANDB_MODE is refused here
    refuse_impossible(config)
    try:
        check_device(config, processes)
        check_words(config, init, resumed)
    except ValueError as error:  # texts for the user, all of them
        raise RunError(str(error)) from error


def check_device(config: Config, processes: Processes) -> None:
    """Raises ValueError where there is no such device, or none that can do what it is to do. The
    CPU is always there."""
    name, offload = config.runtime.device, config.hardware.offload
    shards = config.hardware.parallel == "fsdp" and processes.size > 1
    if name in ("auto", "cpu") and not offload and not shards:
        return
    from lsp.model.device import check_offload, check_sharding, choose_device

    device = choose_device(name, processes.local_rank)
    if offload:
        check_offload(device)
    if shards:
        check_sharding(device)


def check_words(config: Config, init: Init, resumed: Resumed | None) -> None:
    """Raises ValueError where tokenizer, templates, prompts, data and parts do not go together, as
    far as models' files tell without their weights. A model of the Hub that is not in the cache is
    looked at when it loads."""
    model = config.model
    source = model.name if init.is_adapter else init.source
    if resumed is not None and resumed.spec.checkpoint is not None:
        source = str(resumed.spec.checkpoint)
    # The reference is the init's, and an evaluation compares with the base.
    others = () if init.is_adapter else (init.source,)
    names = dict.fromkeys((source, *others, model.name))
    files = {name: _at_hand(config, name) for name in names}
    policy = files[source]
    if policy is None:
        return
    from lsp.model.chat import ChatFormat, take_template
    from lsp.model.context import check_context
    from lsp.model.lora import adapter_weights

    if init.is_adapter:
        take_template(policy.tokenizer, adapter_weights(init.source).parent)
    chat = ChatFormat(policy.tokenizer, model.date_string, model.template_kwargs)
    context = BuildContext(config, chat=chat)
    for part in (config.rollout.engine, config.self_reward, config.reward, config.data):
        part.check(context)
    queries = ()
    if config.method.queries == "dataset":
        if not _data_is_here(config):
            return
        queries = build_part(config.data, context)
    check_context(policy, chat, config, queries)


def _at_hand(config: Config, name: str) -> ModelFiles | None:
    """What a language model's files tell; None where they are not here."""
    revision, code = config.model.revision, config.model.trust_remote_code
    if local_model_folder(name) is None:
        from huggingface_hub import try_to_load_from_cache  # which loads no torch

        if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return None
    from lsp.model.loading import files_at_hand

    return files_at_hand("CausalLM", name, revision, code)


def _data_is_here(config: Config) -> bool:
    """Whether the data set is read from this machine, or made; one of the Hub is fetched by the
    run that begins."""
    path = getattr(config.data, "path", None)
    return path is None or prompt_file(path).exists()
