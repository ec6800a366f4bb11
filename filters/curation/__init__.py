"""Curation: rules that judge documents, and cleaners."""
