"""A model's files go in; the model and its tokenizer come out, or one error with the way out.

What transformers only warns of is refused here: weights that are missing (it draws them at random)
or that no layer takes, an adapter beside the model, a tokenizer that knows more tokens than the
model. Python files that came with a model are run only where the user said so.
"""

import errno
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import constants, errors, get_token
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from lsp.model.families import quantized_by, unsupported
from lsp.model.out_of_memory import is_out_of_memory
from lsp.settings.config import local_model_folder

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an OSError: the disk is full, the quota or the size limit of a file is exceeded."""


def load_pretrained(
    head: Literal["CausalLM", "SequenceClassification"],
    source: str,
    dtype: str,
    revision: str | None,
    trust_remote_code: bool,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with this head on the CPU, and its tokenizer. ``source``: ``pocket``, a folder, or a
    Hub id; ``revision`` is of the latter; ``options`` go to ``from_pretrained``. Raises ValueError
    with the way out where files are missing or damaged, or would run code not agreed to."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # its table of unfit weights is an error below
    folder = local_model_folder(source)
    name = str(folder or source)
    group = "model" if head == "CausalLM" else "reward"  # of the settings that errors name
    what = "model" if group == "model" else "reward model"
    not_loaded = f"the {what} {name!r} cannot be loaded"
    if folder is not None and not (folder / "config.json").is_file():
        fault = "has no config.json; give a folder written by save_pretrained, a Hub id, or a run"
        if (folder / "adapter_config.json").is_file():
            fault = "is an adapter; give its base as model.name, and the adapter with"
            fault += f" init=checkpoint init.run={folder}"
        raise ValueError(f"{not_loaded}: there is no model in it; it {fault}")
    shared = {"revision": None if folder else revision}
    try:
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
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **shared)
        options |= shared | {"dtype": getattr(torch, dtype), "use_safetensors": True}
        auto_class = getattr(transformers, f"AutoModelFor{head}")
        model, report = auto_class.from_pretrained(name, output_loading_info=True, **options)
    except Exception as error:  # of transformers, tokenizers or the Hub, which share no class
        if isinstance(error, UnfitFiles) or is_out_of_memory(error):
            raise
        raise ValueError(f"{not_loaded}: {_reason(error, name, revision, group)}") from error
    _refuse_unfit_weights(head, name, model, report)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{name!r} holds an adapter beside a model, and it is open which is meant; give the"
            " model alone, and the adapter's folder with init=checkpoint init.run=<folder>"
        )
    tokens = max(tokenizer.get_vocab().values()) + 1
    embeddings = len(model.get_input_embeddings().weight)
    if tokens > embeddings:
        raise ValueError(
            f"the tokenizer of {name!r} knows {tokens} tokens, and the {what} has embeddings for"
            f" {embeddings}: the files do not belong together; take the tokenizer that the model"
            " was trained with"
        )
    return model, tokenizer


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
    wrong = [kind for kind in architectures if kind.endswith("ForSequenceClassification")]
    if head == "CausalLM" and wrong:
        raise UnfitFiles(
            f"{name!r} is no causal language model: its config.json says {', '.join(wrong)}, so it"
            " may be a reward model; give it as reward.name, and a language model here"
        )


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
    cause: BaseException | None = error
    while cause is not None:
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
        cause = cause.__cause__ or cause.__context__
    return (
        f"{type(error).__name__}: {brief(error)}\nCheck {group}.name, and that its files are"
        " whole: config.json, tokenizer files and weights as safetensors"
    )


def brief(error: Exception) -> str:
    """An error's text in one line of at most 400 characters: transformers' go on with every model
    that it knows, peft's with every layer."""
    line = " ".join(str(error).split())
    return line if len(line) <= 400 else f"{line[:400]}…"
