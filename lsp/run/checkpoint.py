"""Model, optimizer and state go in, a folder that ``from_pretrained`` loads comes out, and back.

    step-000150/  config.json, model.safetensors, tokenizer files   the model, folders inside too
                  trainer.safetensors                               the optimizer's moments
                  checkpoint.json                                   step, sha256 of each file

Written beside its place and renamed, so a folder of that name is whole; every file is hashed,
so a damaged one is refused by name. Loading runs no code from a file.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lsp.errors import RunError
from lsp.files import files_below, sha256, sync, write_json
from lsp.run.commands import go_on_command
from lsp.tracking.reader import DamagedFile, read_checkpoint_file

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "checkpoint.json"
SIGNATURES = "collapse/signatures"


def checkpoint_folders(run: Path) -> list[Path]:
    """Whole checkpoints of a run, the oldest first."""
    folders = (path.parent for path in (run / "checkpoints").glob(f"step-*/{MANIFEST}"))
    return sorted(path for path in folders if re.fullmatch(r"step-\d+", path.name))


def checkpoint_step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def newest_checkpoint(run: Path) -> Path:
    return named_checkpoint(run, None)


def named_checkpoint(run: Path, name: str | None) -> Path:
    """A run's checkpoint by name, or the newest; RunError where it is missing or damaged."""
    folders = {folder.name: folder for folder in checkpoint_folders(run)}
    if not folders:
        way_on = f"`{go_on_command(run)}` goes on with it and saves one"
        raise RunError(f"the run {run} has no checkpoint; {way_on}")
    if name is not None and name not in folders:
        raise RunError(f"the run {run} has no checkpoint {name!r}; it has {', '.join(folders)}")
    return verified(folders[name or list(folders)[-1]])


def verified(folder: Path) -> Path:
    """The same folder, each file matching its hash; RunError names the damage and the way out."""
    try:
        manifest = read_checkpoint_file(folder)
        files = manifest["files"]
        paths = {name: folder / name for name in files}
        damaged = [n for n, path in paths.items() if not path.is_file() or sha256(path) != files[n]]
        if "model.safetensors" not in str(files) or manifest["step"] != checkpoint_step(folder):
            damaged = [MANIFEST]
    except DamagedFile:
        damaged = [MANIFEST]
    if damaged:
        older = [p for p in checkpoint_folders(folder.parent.parent) if p.name < folder.name]
        way_out = "there is no older one"
        if older:
            way_out = f"an older one is {older[-1]}: move {folder.name} away to fall back to it"
        names = ", ".join(damaged)
        raise RunError(f"the checkpoint {folder} is damaged: {names} missing or changed; {way_out}")
    return folder


def checkpoint_state(folder: Path) -> dict[str, Any]:
    """The plain values that a checkpoint keeps of its run's record."""
    return read_checkpoint_file(folder)["state"]


class TrainingTensors(NamedTuple):
    """What a checkpoint keeps of weights and optimizer. ``weights``: the plain model's whole state
    where the model does not hold it as it is to be saved (sharded, fp32 beneath another dtype, with
    adapters), else None. ``trainer``: AdamW's moments and exact weights by parameter name,
    contiguous copies."""

    weights: dict[str, torch.Tensor] | None
    trainer: dict[str, torch.Tensor]


def training_tensors(
    model: PreTrainedModel,
    named: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype | None,
) -> TrainingTensors:
    """Gathered from all processes where layers are sharded; then all of them ask. ``named``: what
    is trained, by name; ``dtype``: what it computes in, where that is not its own."""
    from lsp.model.distribution import full, is_sharded
    from lsp.model.lora import lora_layers, merged_state
    from lsp.model.precision import rounded

    trainer = {
        f"{kind}/{name}": full(value.detach()).clone().contiguous()
        for name, tensor in named.items()
        for kind, value in optimizer.state.get(tensor, {}).items()
    }
    if dtype is not None:
        trainer |= {f"master/{name}": full(tensor.detach()) for name, tensor in named.items()}
    if lora_layers(model):
        if dtype is None:
            trainer |= {f"master/{name}": tensor.detach() for name, tensor in named.items()}
        with rounded(model, dtype):
            return TrainingTensors(merged_state(model), trainer)
    if dtype is None and not any(map(is_sharded, named.values())):
        return TrainingTensors(None, trainer)
    state = {name: full(tensor.detach()) for name, tensor in model.state_dict().items()}
    if dtype is not None:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    return TrainingTensors(state, trainer)


def save_checkpoint(
    run: Path,
    step: int,
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tensors: TrainingTensors,
    state: dict[str, Any],
    keep: int,
    also: Collection[int],
) -> Path:
    """Write ``checkpoints/step-NNNNNN``, then remove all but the newest ``keep`` and those of the
    steps ``also``. ``state`` is plain values, but for the collapse detector's signatures. Under
    LoRA the model's folder holds merged weights, and the adapters lie beside the optimizer's
    state."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = run / "checkpoints" / f"step-{step:06d}"
    if (final / MANIFEST).is_file():  # this very step was saved a moment ago
        return final
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    collapse = dict(state["collapse"])
    signatures = torch.from_numpy(collapse.pop("signatures").astype("int64"))
    trainer = {**tensors.trainer, SIGNATURES: signatures}
    try:
        if tensors.weights is None:
            model.save_pretrained(temporary)
        else:  # in the reference's shape and dtype
            reference.save_pretrained(temporary, state_dict=tensors.weights)
        tokenizer.save_pretrained(temporary)
        save_file(trainer, temporary / "trainer.safetensors")
    except SafetensorError as error:  # how a full disk shows itself there
        raise OSError(str(error)) from error
    paths = files_below(temporary)
    files = {path.relative_to(temporary).as_posix(): sha256(path) for path in paths}
    manifest = {"step": step, "state": {**state, "collapse": collapse}, "files": files}
    write_json(temporary / MANIFEST, manifest)
    for path in temporary.rglob("*"):
        sync(path)
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    sync(final.parent)
    for old in checkpoint_folders(run)[:-keep]:
        if checkpoint_step(old) not in also:
            shutil.rmtree(old)
    return final


def load_training_state(
    folder: Path,
    model: PreTrainedModel,
    named: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Put the optimizer's moments, exact weights and, under LoRA, the adapters into place (all
    other weights come by ``from_pretrained``); returns what was saved as ``state``."""
    from safetensors.torch import load_file

    from lsp.model.distribution import like

    tensors = load_file(folder / "trainer.safetensors")
    for name, parameter in model.named_parameters():
        moments = {
            kind: like(tensors[f"{kind}/{name}"].to(parameter.device), named[name])
            for kind in ("exp_avg", "exp_avg_sq")
            if f"{kind}/{name}" in tensors
        }
        if f"adapter/{name}" in tensors:
            parameter.data.copy_(tensors[f"adapter/{name}"])
        if f"master/{name}" in tensors:
            master = tensors[f"master/{name}"].to(parameter.device)
            parameter.data.copy_(like(master, named[name]))
        if moments:
            moments["step"] = tensors[f"step/{name}"].to(parameter.device)  # the fused AdamW's
            optimizer.state[named[name]] = moments
    state = checkpoint_state(folder)
    state["collapse"]["signatures"] = tensors[SIGNATURES].numpy()
    return state
