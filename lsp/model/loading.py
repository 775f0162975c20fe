"""A model's files go in; the model and its tokenizer come out, or one error with the way out.

What transformers only warns of is refused here: weights that are missing (it draws them at random)
or that no layer takes, an adapter beside the model, a tokenizer that knows more tokens than the
model. Python files that came with a model are run only where the user said so. What its files tell
without the weights (``read_files``) is asked first, by a dry run too.
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import constants, errors, get_token
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from lsp.model.families import quantized_by, unsupported
from lsp.model.out_of_memory import is_out_of_memory
from lsp.settings.config import local_model_folder
from lsp.tools.reach import hub_options

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an OSError: the disk is full, the quota or the size limit of a file is exceeded."""


Head = Literal["CausalLM", "SequenceClassification"]


@dataclass(frozen=True)
class ModelFiles:
    """What a model's files tell without its weights."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase


def read_files(
    head: Head, source: str, revision: str | None, trust_remote_code: bool, **options: Any
) -> ModelFiles:
    """Of a model with this head. ``source``: ``pocket``, a folder, or a Hub id; ``revision`` is of
    the latter; ``options`` go to ``from_pretrained``. Raises ValueError with the way out where
    files are missing or damaged, or would run code not agreed to."""
    transformers.utils.logging.set_verbosity_error()
    folder, name, group = local_model_folder(source), _name(source), _group(head)
    if folder is not None and not (folder / "config.json").is_file():
        fault = "has no config.json; give a folder written by save_pretrained, a Hub id, or a run"
        if (folder / "adapter_config.json").is_file():
            fault = "is an adapter; give its base as model.name, and the adapter with"
            fault += f" init=checkpoint init.run={folder}"
        raise ValueError(f"{_not_loaded(head, name)}: there is no model in it; it {fault}")
    if folder is None:
        options = hub_options() | options
    shared = options | {"revision": None if folder else revision}
    with _one_error(head, name, revision):
        config_json, _ = transformers.PreTrainedConfig.get_config_dict(name, **shared)
        tokenizer_json = get_tokenizer_config(name, **shared)
        files = {"config.json": config_json, "tokenizer_config.json": tokenizer_json}
        _refuse_files(head, group, name, files, trust_remote_code)
        shared["trust_remote_code"] = trust_remote_code
        config = transformers.AutoConfig.from_pretrained(name, **shared)
        if head == "CausalLM" and (reason := unsupported(config)):
            raise UnfitFiles(
                f"{name!r} ({config.model_type}) is not supported: {reason}; choose another"
            )
        if folder is not None:
            _refuse_cut_weights(folder, group)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **shared)
        tokens = max(tokenizer.get_vocab().values()) + 1
        embeddings = getattr(config.get_text_config(), "vocab_size", tokens)
        if tokens > embeddings:
            raise UnfitFiles(
                f"the tokenizer of {name!r} knows {tokens} tokens, and the {_what(head)} has"
                f" embeddings for {embeddings}: the files do not belong together; take the"
                " tokenizer that the model was trained with"
            )
        return ModelFiles(config, tokenizer)


def files_at_hand(
    head: Head, source: str, revision: str | None, trust_remote_code: bool
) -> ModelFiles | None:
    """``read_files`` of a folder, or of the Hub's cache; nothing is fetched. None for what is not
    in there, and where code of the model's own is trusted, which would run."""
    if trust_remote_code:
        return None
    try:
        return read_files(head, source, revision, trust_remote_code, local_files_only=True)
    except ValueError as error:
        absent = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
        if local_model_folder(source) is None and any(isinstance(e, absent) for e in _chain(error)):
            return None
        raise


def load_pretrained(
    head: Head,
    source: str,
    dtype: str,
    revision: str | None,
    trust_remote_code: bool,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with this head on the CPU, and its tokenizer; as ``read_files``."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # its table of unfit weights is an error below
    tokenizer = read_files(head, source, revision, trust_remote_code).tokenizer
    name = _name(source)
    options |= {
        "revision": None if local_model_folder(source) else revision,
        "trust_remote_code": trust_remote_code,
        "dtype": getattr(torch, dtype),
        "use_safetensors": True,
    }
    if local_model_folder(source) is None:
        options |= hub_options()
    with _one_error(head, name, revision):
        auto_class = getattr(transformers, f"AutoModelFor{head}")
        model, report = auto_class.from_pretrained(name, output_loading_info=True, **options)
    _refuse_unfit_weights(head, name, model, report)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{name!r} holds an adapter beside a model, and it is open which is meant; give the"
            " model alone, and the adapter's folder with init=checkpoint init.run=<folder>"
        )
    return model, tokenizer


def _name(source: str) -> str:
    return str(local_model_folder(source) or source)


def _group(head: Head) -> str:
    """Of the settings that errors name."""
    return "model" if head == "CausalLM" else "reward"


def _what(head: Head) -> str:
    return "model" if head == "CausalLM" else "reward model"


def _not_loaded(head: Head, name: str) -> str:
    return f"the {_what(head)} {name!r} cannot be loaded"


@contextmanager
def _one_error(head: Head, name: str, revision: str | None) -> Iterator[None]:
    """Whatever the libraries raise inside is one ValueError with the way out."""
    try:
        yield
    except Exception as error:  # of transformers, tokenizers or the Hub, which share no class
        if isinstance(error, UnfitFiles) or is_out_of_memory(error):
            raise
        reason = _reason(error, name, revision, _group(head))
        raise ValueError(f"{_not_loaded(head, name)}: {reason}") from error


class UnfitFiles(ValueError):
    """The files were read, and are not a model of the kind to load; the text is for the user."""


def _refuse_files(head: str, group: str, name: str, files: dict[str, dict], trusted: bool) -> None:
    """Raises UnfitFiles where ``files``, by their JSON, ask to run code that was not agreed to, are
    quantized, or are a classifier's in place of a language model's."""
    what = "model" if group == "model" else "reward model"
    with_code = [file for file, content in files.items() if content.get("auto_map")]
    if with_code and not trusted:
        raise UnfitFiles(
            f"the {what} {name!r} asks to run Python code of its own ('auto_map' in"
            f" {' and '.join(with_code)}), which could do anything on this machine; read that code,"
            f" and if you trust it write {group}.trust_remote_code=true on run.py's command line,"
            f" best with {group}.revision=<commit> beside it (trust_remote_code=true on python -m"
            f" eval's); or choose another {what}"
        )
    if method := quantized_by(files["config.json"]):
        raise UnfitFiles(
            f"the {what} {name!r} is quantized ({method}, by 'quantization_config' in config.json),"
            f" and here weights are computed as they are saved, in {group}.dtype; give the {what}"
            " that it was made from"
        )
    # A classifier's decoder with a tied vocabulary head loads as a language model silently.
    architectures = files["config.json"].get("architectures") or ()
    if head == "SequenceClassification" and any(a.endswith("ForCausalLM") for a in architectures):
        raise UnfitFiles(
            f"{name!r} is no reward model: its files hold no head of a classifier (config.json says"
            f" {', '.join(architectures)}); give reward.name=<a sequence classifier>"
        )
    wrong = [kind for kind in architectures if kind.endswith("ForSequenceClassification")]
    if head == "CausalLM" and wrong:
        raise UnfitFiles(
            f"{name!r} is no causal language model: its config.json says {', '.join(wrong)}, so it"
            " may be a reward model; give it as reward.name, and a language model here"
        )


def _refuse_cut_weights(folder: Path, group: str) -> None:
    """Raises UnfitFiles where a folder has no weights, and SafetensorError where a file of theirs
    is not whole: by the names, headers and sizes of files alone."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    paths = [single]
    if not single.is_file() and index.is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        paths = [folder / name for name in sorted(set(shards))]
    for path in paths:
        if not path.is_file():
            raise UnfitFiles(
                f"there is no {path.name} in {str(folder)!r}, and models are loaded from their"
                f" weights as safetensors; fetch it, or give another folder as {group}.name"
            )
        with safe_open(path, "pt"):
            pass  # its header is held to the file's size


def _refuse_unfit_weights(head: str, name: str, model: PreTrainedModel, report: dict) -> None:
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing and head == "SequenceClassification":
        raise ValueError(
            f"{name!r} is no reward model: its files hold no {_some(missing)}"
            " (a causal language model has none); give reward.name=<a sequence classifier>"
        )
    faults = [f"hold no {_some(missing)}"] if missing else []
    if unexpected:
        faults.append(f"hold {_some(unexpected)}, which it does not have")
    if faults:
        raise ValueError(
            f"the files of {name!r} do not fit a {type(model).__name__}: they"
            f" {' and '.join(faults)}; missing weights would be random ones. Fetch the files again,"
            " or choose a model whose config.json and weights belong together"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _reason(error: Exception, name: str, revision: str | None, group: str) -> str:
    """Why it cannot be loaded and what to do, from the first error of a chain that is known."""
    page, log_in = f"https://huggingface.co/{name}", "log in with `hf auth login`, or set HF_TOKEN"
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return (
                f"there is no space left for its files ({cause.strerror}) in"
                f" {constants.HF_HUB_CACHE}; free some, or set HF_HOME to a folder on a larger disk"
            )
        if isinstance(cause, errors.GatedRepoError):
            has = "the token in use was not granted it" if get_token() else "no token was found"
            return f"it is gated, and {has}. Ask for access at {page}, then {log_in}"
        if isinstance(cause, errors.RevisionNotFoundError):
            return (
                f"it has no revision {revision!r}; give a branch, tag or commit that"
                f" {page}/commits/main shows, or {group}.revision=null"
            )
        if isinstance(cause, errors.RepositoryNotFoundError):
            private = f"for a private one {log_in}"
            return f"the Hub has no such model, or it is private; check the name, and {private}"
        if isinstance(cause, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
            state = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the Hub is silent"
            return (
                f"{state}, and it is not whole in the cache {constants.HF_HUB_CACHE}; go online, or"
                f" fetch it elsewhere with `hf download {name}` and give its folder as {group}.name"
            )
        if isinstance(cause, SafetensorError):
            return (
                f"a file of its weights is damaged or was not fetched whole ({cause}); fetch it"
                " again. A damaged checkpoint can be replaced by an older one with"
                " init=checkpoint init.run=<folder>"
            )
    return (
        f"{type(error).__name__}: {brief(error)}\nCheck {group}.name, and that its files are"
        " whole: config.json, tokenizer files and weights as safetensors"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def brief(error: Exception) -> str:
    """An error's text in one line of at most 400 characters: transformers' go on with every model
    that it knows, peft's with every layer."""
    line = " ".join(str(error).split())
    return line if len(line) <= 400 else f"{line[:400]}…"
