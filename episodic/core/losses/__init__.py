"""Embeddings and labels to a scalar: one loss a file, with the miners that choose triplets and the memory of past batches."""
