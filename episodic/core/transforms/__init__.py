"""Transforms of embeddings, between a backbone and what compares its embeddings: one file each."""
