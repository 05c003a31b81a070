"""Past embeddings that a loss of pairs sees too: one memory a file."""
