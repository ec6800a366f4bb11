"""Our own decoding loop: sampling, stop strings, batches, and the whole transformers engine on a tiny model."""

import asyncio
import json

import pytest
from openai_server import chat
from tiny import write_model

from generators.engines import create_engine
from generators.engines.base import BadRequest, Sampling
from schemas.engines import TransformersEngine

torch = pytest.importorskip("torch")
from generators.engines.decoding import Row, decode_batch, draw, left_pad  # noqa: E402
from generators.engines.transformers import _Waiting, choose_batch  # noqa: E402

PROBABILITIES = [0.1, 0.4, 0.05, 0.3, 0.15]


def draws(top_k: int, top_p: float) -> list[float]:
    """How often each token is drawn, by 1000 evenly spaced quantiles."""
    logits = torch.tensor(PROBABILITIES).log()
    drawn = [draw(logits.clone(), top_k, top_p, (i + 0.5) / 1000) for i in range(1000)]
    return [drawn.count(token) / 1000 for token in range(5)]


@pytest.mark.parametrize(
    "top_k, top_p, expected",
    [
        (0, 1.0, PROBABILITIES),
        (1, 1.0, [0, 1, 0, 0, 0]),
        (2, 1.0, [0, 4 / 7, 0, 3 / 7, 0]),
        (9, 1.0, PROBABILITIES),
        (0, 0.4, [0, 1, 0, 0, 0]),
        (0, 0.41, [0, 4 / 7, 0, 3 / 7, 0]),
        (0, 0.75, [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]),
        (2, 0.6, [0, 4 / 7, 0, 3 / 7, 0]),  # the nucleus of what top_k left
        (2, 0.5, [0, 1, 0, 0, 0]),
    ],
)
def test_draw(top_k, top_p, expected):
    assert draws(top_k, top_p) == pytest.approx(expected, abs=0.002)


def test_the_nucleus_of_a_flat_distribution_is_wider_than_the_shortcut():
    logits = torch.zeros(5000)
    drawn = {draw(logits, 0, 0.5, i / 5000) for i in range(5000)}
    assert len(drawn) in (2500, 2501)  # rounding


def row(**sampling) -> Row:
    def decode(ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    return Row([65], Sampling(**{"max_tokens": 100, **sampling}), decode)


def feed(target: Row, data: bytes) -> Row:
    for byte in data:
        if target.finish is None:
            target.accept(byte, frozenset([0]))
    return target


def test_text_grows_by_whole_characters():
    assert feed(row(), "aé日".encode()).text == "aé日"
    cut = feed(row(max_tokens=5), "aé日".encode())
    assert (cut.text, cut.finish) == ("aé", "length")


@pytest.mark.parametrize(
    "data, text, finish",
    [
        (b"one, two", "one", "stop"),
        (b"one\0two", "one", "stop"),
        (b"wait END now", "wait ", "stop"),
        (b"no stops", "no stops", None),
        ("日本END".encode(), "日本", "stop"),
    ],
)
def test_stops(data, text, finish):
    fed = feed(row(stop=(",", "END")), data)
    assert (fed.text, fed.finish) == (text, finish)
    assert len(fed.answer) <= len(data)


def test_repetition_penalty_counts_prompt_and_answer():
    penalised = row(repetition_penalty=2.0)  # the prompt is token 65
    logits = torch.zeros(100)
    logits[65], logits[66], logits[67] = 3.0, 2.0, 1.2
    assert penalised.pick(logits.clone()) == 66
    penalised.accept(66, frozenset())
    assert penalised.pick(logits.clone()) == 65  # 3/2 against 2/2 and 1.2


def test_left_padding():
    ids, mask = left_pad([[1, 2, 3], [4]], "cpu")
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_batches_are_of_similar_length_and_bounded():
    def wait(length: int) -> _Waiting:
        return _Waiting(Row([1] * length, Sampling(max_tokens=10), decode=str), None)

    def lengths(chosen):
        return [len(w.row.prompt) for w in chosen]

    queue = [wait(n) for n in (100, 500, 90, 110, 20)]
    assert choose_batch([], 4, 1000) == []
    assert lengths(choose_batch(queue, 3, 10_000)) == [100, 90, 110]
    assert lengths(choose_batch(queue, 9, 450)) == [100, 90, 110]
    assert lengths(choose_batch(queue, 9, 100)) == [100]  # the oldest goes, even when it alone is too large


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


def test_a_rows_answer_does_not_depend_on_its_neighbours(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def rows():
        lengths, samplings = (30, 3, 17, 60), ((0.0, 9), (1.0, 40), (0.7, 25), (1.0, 3))
        for length, (temperature, max_tokens) in zip(lengths, samplings, strict=True):
            sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=length, top_p=0.95)
            yield Row([(7 * i + length) % 256 for i in range(length)], sampling, decode=str)

    def answers(batches):
        done = []
        for batch in batches:
            decode_batch(model, batch, frozenset([257]), done.append)
        return {len(r.prompt): r.answer for r in done}

    alone, together = answers([[r] for r in rows()]), answers([list(rows())])
    assert alone == together
    assert [len(together[n]) for n in (30, 60)] == [9, 3]
    assert reference(model, [(7 * i + 30) % 256 for i in range(30)], 9) == together[30]


def reference(model, prompt: list[int], steps: int) -> list[int]:
    """Greedy decoding without cache, padding or batch."""
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_the_engine_on_a_tiny_model(folder, tmp_path):
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}

    async def scenario():
        config = TransformersEngine(type="transformers", model=str(folder), device="cpu")
        engine = create_engine(config, tmp_path, tmp_path)

        async def ask(*turns, **sampling):
            return await engine.generate(await engine.prepare(chat(*turns, **{"max_tokens": 20, **sampling})))

        try:
            info = await engine.start()
            assert (info.max_model_len, info.device, info.prefix_cache) == (512, "cpu", False)
            first, second, other = await asyncio.gather(
                ask(("user", "hi"), temperature=1.0, seed=1),
                ask(("user", "hi"), temperature=1.0, seed=1),
                ask(("user", "hi"), temperature=1.0, seed=2),
            )
            assert first.text == second.text != other.text
            answer = await ask(("user", "hi"), json_schema=schema)
            assert answer.finish_reason == "stop" and set(json.loads(answer.text)) == {"n"}
            with pytest.raises(BadRequest, match="xgrammar refuses"):
                await ask(("user", "hi"), json_schema={"type": "no such type"})
            task = asyncio.create_task(ask(("user", "hi"), max_tokens=450))
            await asyncio.sleep(0.1)
            task.cancel()
            assert (await ask(("user", "hi"), ("assistant", "so "))).completion_tokens > 0
        finally:
            await engine.close()

    asyncio.run(scenario())
