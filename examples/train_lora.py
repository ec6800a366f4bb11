"""Train a LoRA adapter on a JSONL file of `messages`: the training command of recipes/self_lengthen.yaml.

Needs torch, transformers, trl, peft and datasets. The loss is on the last message only. Defaults are those of the
published Self-Lengthen; on a CPU with a small model, lower --epochs and --max-length.
"""

import argparse
import tempfile
from pathlib import Path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path, required=True, help='JSONL, one {"messages": [...]} a line')
    parser.add_argument("--previous", default="", help="folder of an adapter to go on with; empty: a new one")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the adapter to")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--max-steps", type=int, default=-1, help="stop after so many steps; overrides --epochs")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=16_384, help="tokens; longer rows are left out, not cut")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    import torch
    from datasets import load_dataset
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    on_gpu = torch.cuda.is_available()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    with tempfile.TemporaryDirectory(prefix="train-lora-") as scratch:
        rows = load_dataset("json", data_files=str(arguments.data), split="train", cache_dir=scratch)
        fitting = rows.filter(
            lambda row: len(tokenizer.apply_chat_template(row["messages"], return_dict=False)) <= arguments.max_length
        )
        print(f"{len(fitting)} of {len(rows)} rows have at most {arguments.max_length} tokens")
        if not len(fitting):
            raise SystemExit(f"{arguments.data}: no row fits --max-length {arguments.max_length}")
        # As prompt and completion: the loss is then on the completion alone.
        pairs = fitting.map(
            lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
            remove_columns=rows.column_names,
        )
        dtype = torch.bfloat16 if on_gpu else torch.float32
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype)
        lora = None
        if arguments.previous:
            model = PeftModel.from_pretrained(model, arguments.previous, is_trainable=True)
        else:
            lora = LoraConfig(
                r=arguments.rank,
                lora_alpha=arguments.alpha,
                lora_dropout=arguments.dropout,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            )
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                learning_rate=arguments.learning_rate,
                num_train_epochs=arguments.epochs,
                max_steps=arguments.max_steps,
                per_device_train_batch_size=arguments.batch,
                gradient_accumulation_steps=arguments.accumulate,
                max_length=None,  # nothing is cut in silence
                lr_scheduler_type="cosine",
                warmup_steps=0.1,  # below 1: a share of all steps
                bf16=on_gpu,
                use_cpu=not on_gpu,
                gradient_checkpointing=on_gpu,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                seed=arguments.seed,
            ),
            train_dataset=pairs,
            processing_class=tokenizer,
            peft_config=lora,
        )
        trainer.train()
        arguments.out.mkdir(parents=True, exist_ok=True)
        trainer.model.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
