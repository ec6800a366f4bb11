"""Measurements: each module prints one Markdown table for this machine."""
