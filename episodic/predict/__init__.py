"""Name people's own pictures after a few examples. `python -m episodic.predict` is the command."""
