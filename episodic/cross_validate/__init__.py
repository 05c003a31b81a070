"""Train and score over folds of classes. `python -m episodic.cross_validate` is the command."""
