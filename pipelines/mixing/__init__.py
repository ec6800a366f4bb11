"""Mixing: which documents make up a training mixture, how often each, in which order. Pure functions on lengths."""
