"""Augmentations of training rows, each a pure function of tokens or lengths, a seed and the row's number."""
