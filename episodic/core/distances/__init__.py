"""How two embeddings compare: one distance a file, an object that losses, miners, learners, graphs and retrieval take."""
