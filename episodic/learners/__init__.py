"""A task to a prediction: what a learner is, and one paper a file."""
