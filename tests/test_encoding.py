"""Texts to ids: exactly those of the reference, whatever the text."""

import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from pipelines.encode_pieces import _ATOMS, _PIECE, PieceTokenizer, splittable
from pipelines.encoding import FileEncoder, _load, make_encoder
from schemas.errors import UserError
from tests.encode_support import LESSON, NASTY, PRE_TOKENIZERS, byte_level, save, sequence, split

LONG = {
    "no space": "abcdefgh" * 130_000,
    "spaces": " " * 200_000 + "a",
    "newlines": "\n" * 30_000,
    "digits": "1234567" * 5_000,
    "Chinese": "中文字" * 10_000,
    "NULs": "\0" * 30_000,
    "zero width": "\u200b" * 10_000,
}


def rows(encoded):
    return [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]


def both(folder, kind, normalizer=None):
    """The fast encoder, and the library beside it."""
    from tokenizers import Tokenizer

    library = Tokenizer.from_file(str(save(folder, kind, normalizer=normalizer) / "tokenizer.json"))
    library.encode_special_tokens = True
    encoder = make_encoder(str(folder), Path())
    assert encoder.note is None
    return encoder, lambda text: library.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module", params=[*PRE_TOKENIZERS, "NFC", "NFKC"])
def pair(request, tmp_path_factory):
    kind, normalizer = ("llama3", request.param) if request.param.startswith("NF") else (request.param, None)
    return both(tmp_path_factory.mktemp("model"), kind, normalizer)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return both(tmp_path_factory.mktemp("model"), "smollm")


@given(text=NASTY)
@settings(max_examples=300)
def test_fast_ids_are_those_of_the_library(pair, text):
    encoder, library = pair
    assert rows(encoder.encode([text, text[1:], ""])) == [library(text), library(text[1:]), []]
    assert encoder.note is None


def test_fast_ids_of_long_hostile_texts(one):
    encoder, library = one
    assert rows(encoder.encode(list(LONG.values()))) == [library(text) for text in LONG.values()]


@pytest.mark.parametrize("step", [401, pytest.param(29, marks=pytest.mark.slow)])
def test_characters_of_all_unicode_beside_cuts(pair, step):
    """From all of Unicode: no table of letters, digits or blanks may matter."""
    encoder, library = pair
    points = [chr(point) for point in range(0, 0x110000, step) if not 0xD800 <= point < 0xE000]
    for start in range(0, len(points), 20_000):
        text = "".join(f"a{c}a {c} 1{c}, {c}b{c}.{c} " for c in points[start : start + 20_000])
        assert rows(encoder.encode([text])) == [library(text)]


@given(text=NASTY)
def test_pieces_make_up_the_text(text):
    assert "".join(_PIECE.findall(text)) == text


def test_pieces_by_hand():
    text = "The end, it's  1,000.\n  Été x1_y"
    assert _PIECE.findall(text) == ["The", " end", ",", " it's", "  1", ",000", ".\n  Été x1", "_y"]


def test_no_atom_of_a_pattern_matches_across_a_cut():
    """Tried on every pair of ASCII characters and what stands around them."""
    import regex

    for atom in _ATOMS:
        pattern = regex.compile(atom)
        for one in map(chr, range(128)):
            for two in map(chr, range(128)):
                if (one.isalnum() and not two.isalnum() and two != "'") or ("!" <= one <= "~" and two == " "):
                    for text in (one + two, f" {one}{two}a", f"a{one}{two} ", f"'{one}{two}s", f"\n{one}{two}\n"):
                        cut = text.index(one + two) + 1
                        assert not any(m.start() < cut < m.end() for m in pattern.finditer(text)), (atom, text)


def test_only_known_tokenizers_are_split(tmp_path):
    spec = json.loads((save(tmp_path) / "tokenizer.json").read_text("utf-8"))
    assert splittable(spec)
    token = spec["added_tokens"][0]
    letters_only = sequence(split(r" ?\p{L}+"), byte_level(False))
    unknown = sequence(split(r"\p{L}+[.,]?|\s+"), byte_level(False))
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    for change in (
        {"pre_tokenizer": letters_only}, {"pre_tokenizer": unknown}, {"pre_tokenizer": metaspace},
        {"pre_tokenizer": None}, {"pre_tokenizer": sequence(byte_level(True), split(r"\s+"))},
        {"pre_tokenizer": {**byte_level(True), "add_prefix_space": True}},
        {"normalizer": {"type": "Lowercase"}}, {"model": {**spec["model"], "dropout": 0.1}},
        {"added_tokens": [{**token, "rstrip": True}]},
    ):  # fmt: skip
        assert not splittable(spec | change), change


def test_an_unknown_tokenizer_is_encoded_whole_and_said_so(tmp_path):
    folder = save(tmp_path)
    spec = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    spec["pre_tokenizer"] = sequence(split(r"\p{L}+[.,]?|\s+"), byte_level(False))
    (folder / "tokenizer.json").write_text(json.dumps(spec), "utf-8")
    encoder = make_encoder(str(folder), Path())
    assert "fast path does not know" in encoder.note
    assert make_encoder(str(folder), Path(), False).note is None
    assert rows(encoder.encode([LESSON])) == rows(make_encoder(str(folder), Path(), False).encode([LESSON]))


def test_a_difference_from_the_reference_ends_the_fast_path(tmp_path, monkeypatch, caplog):
    folder = str(save(tmp_path))
    encoder = FileEncoder(folder, Path(), True)
    monkeypatch.setattr(PieceTokenizer, "split", lambda self, text: list(text) if self.fast else [text])
    encoded = encoder.encode(["the end", "the end"])
    assert "differ on 'the end'" in encoder.note and encoder.note in caplog.text
    assert rows(encoded) == rows(make_encoder(folder, Path(), False).encode(["the end", "the end"]))


def test_quoted_special_tokens_are_text_and_nothing_is_added(one):
    encoder, _ = one
    encoded = encoder.encode(["<|im_end|>", "a<|im_start|><|im_end|>"])
    assert not set(encoded.ids.tolist()) & {encoder.bos_id, encoder.eos_id}
    assert encoder.encode(["<think>"]).ids.size == 1  # an added token that is not special


def test_rows_offsets_and_types(one):
    encoded = one[0].encode(["", "the end", ""])
    assert encoded.ids.dtype == np.int32 and encoded.offsets.dtype == np.int64
    assert encoded.offsets[[0, 1]].tolist() == [0, 0] and encoded.offsets[2] == encoded.offsets[3] == encoded.ids.size
    assert one[0].encode([]).offsets.tolist() == [0]


def test_a_lone_surrogate_is_a_reason_of_its_row(one):
    encoded = one[0].encode(["a", "b\ud800", "a"])
    assert encoded.reasons == [None, "invalid_text", None]
    assert rows(encoded)[1] == [] and rows(encoded)[0] == rows(encoded)[2] != []


def test_identity_follows_whatever_decides_ids(tmp_path):
    def identity(name, **options):
        return make_encoder(str(save(tmp_path / name, **options)), Path()).identity

    first = identity("a")
    assert identity("b") == first
    assert len({first, identity("c", words=300), identity("d", template=None), identity("e", kind="llama3")}) == 4


def _ids_elsewhere(encoder):
    return encoder.encode([LESSON]).ids.tolist()


def test_an_encoder_goes_to_a_worker(one):
    encoder, library = one
    assert pickle.loads(pickle.dumps(encoder)).identity == encoder.identity
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(_ids_elsewhere, (encoder,)) == library(LESSON)


def test_the_table_of_pieces_stays_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.encode_pieces._TABLE", 2000)
    encoder = FileEncoder(str(save(tmp_path)), Path(), True)
    for number in range(200):
        encoder.encode([f"word{number} and number{number}"])
        assert len(encoder._documents._table) < 30


# ---------------------------------------------------------------- tiktoken


@pytest.fixture(scope="module")
def toy():
    """An encoding of our own, so that no file has to be fetched."""
    import tiktoken

    ranks = {bytes([byte]): byte for byte in range(256)} | {b"th": 256, b"the": 257, b" the": 258, b"en": 259}
    encoding = tiktoken.Encoding(
        "toy", pat_str=r"\p{L}+| ?\p{L}+|\s+(?!\S)|\s+|.", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 260}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.encoding.tiktoken_encoding", lambda ref: encoding)
        yield make_encoder("tiktoken:toy", Path()), encoding
    _load.cache_clear()


@given(text=NASTY)
def test_tiktoken_ids_are_those_of_encode_ordinary(toy, text):
    encoder, encoding = toy
    assert rows(encoder.encode([text, "<|endoftext|>"])) == [
        encoding.encode_ordinary(text), encoding.encode_ordinary("<|endoftext|>"),
    ]  # fmt: skip
    assert (encoder.vocab_size, encoder.bos_id, encoder.eos_id) == (261, None, 260)


def test_a_panic_of_tiktoken_is_a_reason_of_its_row(toy):
    encoded = toy[0].encode(["the", " " * 1_000_000 + "a", "the\ud800", "the"])
    assert encoded.reasons == [None, "tokenizer_failed", "invalid_text", None]
    assert rows(encoded) == [[257], [], [], [257]]


def test_tiktoken_has_no_chats(toy):
    with pytest.raises(UserError, match="no chat template"):
        toy[0].encode_chats([[{"role": "user", "content": "a"}]], [False])
