"""Whole-dataset steps: ingest, generate, export; workspace, manifests, shards, catalog."""
