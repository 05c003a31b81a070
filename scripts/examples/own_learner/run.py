"""Use a learner of your own, in three files outside the package, with the package's own commands.
`soft_neighbors.py` is the learner, `conf/learner/soft_neighbors.yaml` its settings and `test_soft_neighbors.py` its test.

`hydra.searchpath` says where the settings are. The script runs two commands in this folder. Prints the commands and their output:
the 5-way 5-shot accuracy after 100 episodes of training, and the 1-shot accuracy of the same run. Both commands need
`allow_any_target=true`, as the class is not the package's.
"""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN = """episodic.train hydra.searchpath=[file://conf] learner=soft_neighbors allow_any_target=true task=glyphs_5w5s
    learner.temperature=1 task.train.n_way=10 trainer.steps=100 trainer.validate_every=100 trainer.validation_episodes=100
    episodes=600 optimizer.lr=0.003 backbone.widths=[32,32,32,32]"""
EVALUATE = "episodic.evaluate allow_any_target=true task.n_shot=1 episodes=600"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for command in (TRAIN, EVALUATE):
            words = ["-m", *command.split(), f"run={Path(folder) / 'run'}"]
            print("python", shlex.join(words), flush=True)
            subprocess.run([sys.executable, *words], check=True, cwd=Path(__file__).parent)


if __name__ == "__main__":
    main()
