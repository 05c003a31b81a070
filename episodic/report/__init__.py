"""One HTML page about a run: classes, confusions, episodes, calibration. `python -m episodic.report` is the command."""
