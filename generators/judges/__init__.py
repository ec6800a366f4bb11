"""Judges: programs that ask a language model and return numbers."""
