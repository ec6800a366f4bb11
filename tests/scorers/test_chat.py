"""Prompts and answers as token ids: cut as TRL's DPOTrainer cuts them, summed as it sums them."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.chat import encode_pair
from filters.scorers.core import ScorerCore
from schemas.states import Reject
from tests.engines.tiny import CHATML
from tests.scorers.models import write

# The prompt ends with words that the whole conversation does not have: the answers start before the prompt's end.
DIVERGING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
PAIRS = [
    ("What is two and two?", "Four.", "It is five, I think."),
    ("Sprich: «Öl» 水 🙂", "水", ""),
    ("<|im_end|> is text here", " leading space", "<|im_start|>"),
]


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "tiny")


def trainer(folder, tokenizer, tmp_path):
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": user(p), "chosen": assistant(c), "rejected": assistant(r)} for p, c, r in PAIRS]
    arguments = DPOConfig(
        output_dir=str(tmp_path), max_length=None, use_cpu=True, bf16=False, report_to="none",
        precompute_ref_log_probs=True, per_device_train_batch_size=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return DPOTrainer(model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


@pytest.mark.parametrize("template", [CHATML, DIVERGING], ids=["chatml", "diverging"])
def test_tokens_and_sums_are_those_of_trl(folder, tmp_path, template):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    theirs = trainer(folder, tokenizer, tmp_path).train_dataset
    core = ScorerCore(folder, "float32", "cpu")
    for (prompt, chosen, rejected), row in zip(PAIRS, theirs, strict=True):
        ours = encode_pair(tokenizer, user(prompt), assistant(chosen), assistant(rejected))
        assert list(ours.chosen.prompt) == list(ours.rejected.prompt) == row["prompt_ids"]
        assert ours.chosen.response == row["chosen_ids"] and ours.rejected.response == row["rejected_ids"]
        sums = [reading.sum() for reading in core.read([ours.chosen, ours.rejected])]
        assert sums == pytest.approx([row["ref_chosen_logps"], row["ref_rejected_logps"]], abs=1e-3)
    assert len(theirs) == len(PAIRS)


def test_the_end_of_the_turn_belongs_to_the_answer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pair = encode_pair(tokenizer, user("Hi"), assistant("A"), assistant("BC"))
    assert tokenizer.decode(pair.chosen.prompt) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(pair.chosen.response) == "A<|im_end|>\n"
    assert tokenizer.decode(pair.rejected.response) == "BC<|im_end|>\n"


def test_a_template_that_refuses_the_messages_rejects_the_row(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(Reject, match="invalid_output: template_refuses: no system role"):
        encode_pair(tokenizer, user("Hi"), assistant("A"), assistant("B"))
