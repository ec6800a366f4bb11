"""Judgements on text without a conversation: words, lengths, repetition, language."""
