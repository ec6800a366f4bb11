"""Packing as pure functions: a plan on lengths alone, then rows, labels and weights on arrays of tokens."""
