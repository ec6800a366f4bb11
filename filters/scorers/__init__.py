"""Scorers on torch: they add numbers to rows, and never change or drop them."""
