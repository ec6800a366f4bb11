"""Programs that talk to a language model: one module per method, plus engines, prompts, ledger and runner."""
