"""Training on packed rows with loss weights: a plain PyTorch loop of forty lines, to copy into a trainer of your own.

python examples/train_weighted.py workspace/exports/out --model MODEL_FOLDER --to trained --accumulate 8

Reads the export's config `packed`, made with `loss_weights: sample` or `token`. A row's loss is the sum of weight x
cross-entropy over its targets, and an optimiser step takes the mean over its rows. With `sample` that is the mean over
samples of each sample's own mean (LongAlign, arXiv 2401.18058, section 3.2). The weights hold for as many rows in a
step as the recipe says under `global_batch`: `--accumulate` must be that number, and rows come in the order of the
file.
"""

import argparse
from collections.abc import Sequence

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM


def row_loss(model: torch.nn.Module, row: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weighted loss of one packed row: a scalar. Samples do not see each other: positions restart at each, from
    which transformers builds the mask (or FlashAttention its borders). Columns are tensors of shape (tokens,)."""
    # The token at t predicts that at t + 1. The first label of each sample is -100: no sample predicts the next one.
    # Logits are made where there is a target alone: over all tokens of a long row they would fill the memory.
    learnt = (row["labels"][1:] != -100).nonzero()[:, 0]
    ids, positions = row["input_ids"][None], row["position_ids"][None]
    logits = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=learnt).logits[0]
    losses = torch.nn.functional.cross_entropy(logits.float(), row["labels"][1:][learnt], reduction="none")
    return (row["loss_weights"][1:][learnt] * losses).sum()


def train(model: torch.nn.Module, rows: Sequence, steps: int, accumulate: int, learning_rate: float) -> list[float]:
    """Returns the loss of each optimiser step."""
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(steps):
        batch = [rows[n] for n in range(step * accumulate, min((step + 1) * accumulate, len(rows)))]
        total = 0.0
        for row in batch:
            loss = row_loss(model, {key: value.to(model.device) for key, value in row.items()}) / len(batch)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(total)
        print(f"step {step + 1} of {steps}: loss {total:.4f}")
    return losses


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="the folder of an export with the config `packed`")
    parser.add_argument("--model", required=True, help="folder or hub name of the model whose tokenizer made the rows")
    parser.add_argument("--to", default="trained", help="where the trained model goes")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument(
        "--accumulate", type=int, default=8, help="rows in one optimiser step: the recipe's global_batch"
    )
    parser.add_argument("--max-steps", type=int, help="default: one epoch")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> list[float]:
    arguments = parse(argv)
    rows = load_dataset(arguments.data, "packed", split="train")
    if any(weights is None for weights in rows["loss_weights"]):
        raise SystemExit(f"{arguments.data}: its rows have no loss_weights: set them under 'pack' in the recipe")
    rows = rows.select_columns(["input_ids", "labels", "position_ids", "loss_weights"]).with_format("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).to(device).train()
    model.gradient_checkpointing_enable()
    steps = -(-len(rows) // arguments.accumulate)
    steps = min(steps, arguments.max_steps or steps)
    losses = train(model, rows, steps, arguments.accumulate, arguments.learning_rate)
    model.save_pretrained(arguments.to)
    return losses


if __name__ == "__main__":
    main()
