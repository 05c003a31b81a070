"""A page on this machine to show examples to a model and ask it. `python -m episodic.demo` is the command."""
