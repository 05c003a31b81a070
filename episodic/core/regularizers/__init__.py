"""What acts on tables or embeddings beside a loss: one method a file."""
