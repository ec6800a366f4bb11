"""Reading a recipe: every fault is one sentence that names file and key; what is left out has its default."""

import copy
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from generators.registry import METHODS
from schemas.errors import UserError
from schemas.loading import MAX_ALIASES, MAX_RECIPE_BYTES, load_recipe
from schemas.model import SamplingConfig
from schemas.recipe import Recipe

RECIPES = Path(__file__).parent.parent / "recipes"
GOOD = {
    "name": "small",
    "documents": [{"name": "texts", "type": "inline", "items": ["a text"]}],
    "engines": {"writer": {"type": "auto", "model": "m"}},
    "generate": [{"method": "long_qa", "engine": "writer"}],
    "export": [{"name": "out"}],
}


def changed(path, value):
    """GOOD with the value at `path` (keys and indices) replaced; "absent" takes the key away."""
    recipe = copy.deepcopy(GOOD)
    *steps, last = path
    place = recipe
    for step in steps:
        place = place[step]
    if value == "absent":
        del place[last]
    else:
        place[last] = value
    return recipe


def read(folder, content):
    """The recipe in a file with this content (bytes, or a value that is written as YAML)."""
    path = folder / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else yaml.safe_dump(content, sort_keys=False).encode())
    return load_recipe(path)


def fault(folder, content):
    with pytest.raises(UserError) as caught:
        read(folder, content)
    start, path, sentence = str(caught.value).partition(f"{folder / 'recipe.yaml'}: ")
    assert (start, path) == ("", f"{folder / 'recipe.yaml'}: ") and "\n" not in sentence
    return sentence


SOURCE_TYPES = "parquet, jsonl, text, huggingface, repository, python, inline"
ENGINE_TYPES = "vllm, transformers, auto, openai"
BAD = [
    (["name"], "absent", "name: this key is required"),
    (["name"], "Big Name", "name: 'Big Name' is no name; use a-z, 0-9, '_' and '-', at most 64 of them"),
    (["name"], "a\n", "name: 'a\\n' is no name; use a-z, 0-9, '_' and '-', at most 64 of them"),
    (["seeds"], 1, "seeds: unknown key, did you mean 'seed'?"),
    (["seed"], "x", "seed: input should be a valid integer, unable to parse string as an integer, not 'x'"),
    (["documents"], "absent", "needs at least one source under 'documents' or 'instructions'"),
    (["documents"], None, "documents: input should be a list, not None"),
    (["documents", 0], "a.txt", "documents[0]: input should be a mapping of keys, not 'a.txt'"),
    (["documents", 0, "type"], "absent", "documents[0]: the key 'type' is required"),
    (
        ["documents", 0, "type"],
        "inlin",
        f"documents[0]: type 'inlin' is unknown, did you mean 'inline'?; known: {SOURCE_TYPES}",
    ),
    (["documents", 0, "item"], ["x"], "documents[0].item: unknown key, did you mean 'items'?"),
    (["documents", 0, "items"], [], "documents[0].items: needs at least 1, not []"),
    (["documents", 0, "items"], [5], "documents[0].items[0]: input should be a valid string, not 5"),
    (["documents", 0, "limit"], 0, "documents[0].limit: input should be greater than 0, not 0"),
    (["documents", 0], {"name": "j", "type": "jsonl"}, "documents[0].path: this key is required"),
    (
        ["documents", 0],
        {"name": "j", "type": "jsonl", "path": "x", "fields": {"txt": "t"}},
        "documents[0].fields.txt: unknown key, did you mean 'text'?",
    ),
    (
        ["documents", 0],
        {"name": "j", "type": "text", "path": ""},
        "documents[0].path: string should have at least 1 character, not ''",
    ),
    (
        ["engines", "writer", "model"],
        "",
        "engines.writer.model: string should have at least 1 character, not ''",
    ),
    (["documents"], GOOD["documents"] * 2, "the source name 'texts' is used twice"),
    (
        ["engines", "writer", "type"],
        "vlm",
        f"engines.writer: type 'vlm' is unknown, did you mean 'vllm'?; known: {ENGINE_TYPES}",
    ),
    (
        ["engines", "writer"],
        {"type": "vllm", "model": "m", "gpu_memory_utilisation": 0.5},
        "engines.writer.gpu_memory_utilisation: unknown key, did you mean 'gpu_memory_utilization'?",
    ),
    (
        ["engines", "writer"],
        {"type": "openai", "model": "m", "base_url": "http://x"},
        "engines.writer.base_url: unknown key, did you mean 'base_urls'? (and 1 more fault)",
    ),
    (
        ["engines", "Writer"],
        {"type": "auto", "model": "m"},
        "engines.Writer: 'Writer' is no name; use a-z, 0-9, '_' and '-', at most 64 of them",
    ),
    (
        ["generate", 0, "method"],
        "longqa",
        f"generate[0]: method 'longqa' is unknown, did you mean 'long_qa'?; known: {', '.join(sorted(METHODS))}",
    ),
    (
        ["generate", 0, "engine"],
        "writr",
        "generate 'long_qa': no engine 'writr' under 'engines', did you mean 'writer'?",
    ),
    (
        ["generate", 0, "sources"],
        ["text"],
        "generate 'long_qa': no source 'text' under 'documents', did you mean 'texts'?",
    ),
    (["generate", 0, "method"], "agentwrite", "generate 'agentwrite' reads instructions, and the recipe has none"),
    (["generate"], GOOD["generate"] * 2, "the generate name 'long_qa' is used twice"),
    (
        ["generate", 0, "sampling"],
        {"anwser": {}},
        "generate[0].sampling.anwser: unknown key, did you mean 'answer'?",
    ),
    (
        ["generate", 0, "sampling"],
        {"answer": {"temprature": 1}},
        "generate[0].sampling.answer.temprature: unknown key, did you mean 'temperature'?",
    ),
    (
        ["generate", 0, "sampling"],
        {"answer": {"temperature": float("inf")}},
        "generate[0].sampling.answer.temperature: input should be a finite number, not inf",
    ),
    (
        ["generate", 0, "sampling"],
        {"answer": None},
        "generate[0].sampling.answer: input should be a mapping of keys, not None",
    ),
    (
        ["generate", 0, "document_tokens"],
        {"min": 10, "max": 5},
        "generate[0].document_tokens: max 5 is smaller than min 10",
    ),
    (["export"], GOOD["export"] * 2, "the export name 'out' is used twice"),
    (
        ["export", 0, "configs"],
        ["sftt"],
        "export[0].configs[0]: input should be 'sft', 'preference', 'longpo', 'documents', 'packed' "
        "or 'tokenised', not 'sftt'",
    ),
    (["export", 0, "configs"], ["sft", "sft"], "export[0].configs: each config once, not sft, sft"),
    (
        ["export", 0, "methods"],
        ["longqa"],
        "export 'out': no step under 'generate' has the method 'longqa', did you mean 'long_qa'?",
    ),
    (["export", 0, "shard_size"], "500 MBs", "export[0].shard_size: '500 MBs' is not a size like 500MB or 2GiB"),
    (["export", 0, "shard_size"], "0.1B", "export[0].shard_size: input should be greater than 0, not 0"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), BAD, ids=[sentence[:40] for _, _, sentence in BAD])
def test_a_wrong_value_ends_the_command_with_one_sentence(tmp_path, capsys, path, value, sentence):
    """Exit code 2 and one line, before anything is written."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(changed(path, value), sort_keys=False))
    assert main(["run", str(file), "--no-prefect", "--workspace", str(tmp_path / "w")]) == 2
    assert capsys.readouterr() == ("", f"longloom: {file}: {sentence}\n")
    assert list(tmp_path.iterdir()) == [file]


def keys(value, path=()):
    """All keys of mappings in a recipe, as paths."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict):
                yield (*path, key)
            yield from keys(inner, (*path, key))


@pytest.mark.parametrize("shipped", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_key_of_our_recipes_can_be_misspelt(tmp_path, shipped):
    """A key that nobody reads would be a setting that somebody believes in."""
    value = yaml.safe_load(shipped.read_text("utf-8"))
    for path in keys(value):
        *above, last = path
        if "options" in above or (above and above[-1] == "engines"):  # checked by `plan`; a name
            continue
        wrong = copy.deepcopy(value)
        place = wrong
        for step in above:
            place = place[step]
        place[f"{last}x"] = place.pop(last)
        said = fault(tmp_path, wrong)
        assert f"{last}x" in said or f"{last}' is required" in said or f"{last}: this key is required" in said, path


def test_the_good_recipe_of_these_tests_is_good(tmp_path):
    assert read(tmp_path, GOOD).generate[0].engine == "writer"


def test_a_size_of_any_length_is_a_number(tmp_path):
    assert read(tmp_path, changed(["export", 0, "shard_size"], "1" + "0" * 400)).export[0].shard_size == 10**400


ALIASES = b"a: &a x\n" + b"".join(b"k%d: *a\n" % n for n in range(MAX_ALIASES + 1))
BOMB = b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 20)
)
RAW = {
    "empty": (b"", "a recipe is a mapping of keys, this is NoneType"),
    "a list": (b"- a\n- b\n", "a recipe is a mapping of keys, this is list"),
    "a text": (b"hello", "a recipe is a mapping of keys, this is str"),
    "not UTF-8": (b"name: caf\xe9", "is not UTF-8 text"),
    "UTF-16": ("name: x".encode("utf-16"), "is not UTF-8 text"),
    "a key twice": (b"name: x\nseed: 1\nname: y\n", "is not valid YAML: the key 'name' is given twice (line 3)"),
    "a key twice below": (b"a:\n  b: 1\n  b: 2\n", "is not valid YAML: the key 'b' is given twice (line 3)"),
    "open bracket": (
        b"a: [1",
        "is not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>' "
        "(line 1, column 6)",
    ),
    "a tab": (
        b"a:\n\tb: 1",
        "is not valid YAML: while scanning for the next token, found character '\\t' that cannot start any token "
        "(line 2, column 1)",
    ),
    "two documents": (
        b"a: 1\n---\nb: 2\n",
        "is not valid YAML: expected a single document in the stream, but found another document (line 2, column 1)",
    ),
    "Python tag": (
        b"name: !!python/object/apply:os.system [id]",
        "is not valid YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.system' (line 1, column 7)",
    ),
    "a tag that does not fit": (b"seed: !!bool x", "is not valid YAML: a tag does not fit its value"),
    "another one": (b"seed: !!timestamp x", "is not valid YAML: a tag does not fit its value"),
    "no such day": (b"seed: 2026-99-99", "is not valid YAML: month must be in 1..12"),
    "key that is a list": (b"? [a, b]\n: c", "is not valid YAML: unhashable type: 'list'"),
    "key that is a number": (b"name: x\n5: y", "[5]: keys should be strings, not 5"),
    "too many aliases": (ALIASES, "is not valid YAML: more than 100 aliases"),
    "a YAML bomb": (BOMB, "is not valid YAML: more than 100 aliases"),
    "deep brackets": (b"a: " + b"[" * 5000, "is nested too deeply"),
    "deep blocks": (b"a:\n  " + b"- " * 3000 + b"x", "is nested too deeply"),
    "too large": (b"#" * (MAX_RECIPE_BYTES + 1), f"larger than {MAX_RECIPE_BYTES} bytes, which is no recipe"),
}


@pytest.mark.parametrize("name", RAW)
def test_a_file_that_is_no_recipe(tmp_path, name):
    content, sentence = RAW[name]
    assert fault(tmp_path, content) == sentence


def test_an_alias_is_fine(tmp_path):
    text = yaml.safe_dump(GOOD).replace("model: m", "model: &m m") + "description: *m\n"
    assert read(tmp_path, text.encode()).description == "m"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.yaml", "cannot be read: No such file or directory"),
        (".", "cannot be read: Is a directory"),
        ("file/recipe.yaml", "cannot be read: Not a directory"),
    ],
)
def test_a_path_that_cannot_be_read(tmp_path, name, sentence):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        load_recipe(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: {sentence}"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    assert read(tmp_path, b"\xef\xbb\xbf" + yaml.safe_dump(GOOD).encode()).name == "small"


def test_partial_sampling_keeps_the_other_defaults_of_the_step(tmp_path):
    recipe = read(tmp_path, changed(["generate", 0, "sampling"], {"questions": {"max_tokens": 99}}))
    sampling = recipe.generate[0].sampling
    assert sampling.questions == SamplingConfig(max_tokens=99, temperature=0.7, top_p=0.9)
    assert sampling.answer == SamplingConfig(max_tokens=2048, temperature=0.0)
    assert sampling.critique == SamplingConfig(max_tokens=512, temperature=0.0)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (1, 1), ("1", 1), ("7B", 7), ("500MB", 500_000_000), ("500mb", 500_000_000), ("1.5 GB", 1_500_000_000),
        ("2GiB", 2_147_483_648), (" 3 KiB ", 3072), ("0.3KB", 300), ("4MiB", 4_194_304),
    ],
)  # fmt: skip
def test_sizes(tmp_path, given, size):
    assert read(tmp_path, changed(["export", 0, "shard_size"], given)).export[0].shard_size == size


def test_all_defaults_are_visible_and_read_back_the_same(tmp_path):
    recipe = read(tmp_path, GOOD)
    shown = recipe.model_dump(mode="json")
    assert shown["export"] == [
        {
            "name": "out",
            "configs": ["sft", "documents"],
            "format": "parquet",
            "style": "messages",
            "compression": "none",
            "methods": None,
            "select": None,
            "pack": None,
            "of": [],
            "shard_size": 500_000_000,
            "indicator": None,
        }
    ]
    assert shown["engines"] == {
        "writer": {
            "type": "auto", "model": "m", "adapter": None, "revision": None, "max_model_len": None, "dtype": "auto",
        }
    }  # fmt: skip
    assert shown["documents"] == [
        {"name": "texts", "type": "inline", "items": ["a text"], "licence": None, "language": None, "limit": None}
    ]
    one = shown["generate"][0]
    assert {key: one[key] for key in ("name", "per_document", "document_tokens", "too_long", "shard_rows")} == {
        "name": "long_qa", "per_document": 1, "document_tokens": {"min": 8000, "max": 64000}, "too_long": "excerpt",
        "shard_rows": 128,
    }  # fmt: skip
    assert Recipe.model_validate(shown) == read(tmp_path, shown) == recipe


def test_a_recipe_cannot_be_changed(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        read(tmp_path, GOOD).seed = 5
