"""Tasks with verifiable answers, made without a model: one module a task, registered in `registry`."""
