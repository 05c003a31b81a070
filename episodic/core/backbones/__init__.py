"""Images to embeddings: one network a file, and the heads on them."""
