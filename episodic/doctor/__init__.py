"""Look at the data before training: corrupt files, small classes, duplicates, leaks. `python -m episodic.doctor` is the command."""
