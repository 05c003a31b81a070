"""The command that trains a learner, keeps the best weights and tests them.

python -m episodic.train task=... learner=... backbone=...
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from episodic.config.command import command
from episodic.run.distributed import joined, peers
from episodic.train.interrupt import end, handled
from episodic.train.resume import with_saved_options
from episodic.train.session import train


def main(cfg: DictConfig) -> None:
    """Train as the command line says."""
    hydra = HydraConfig.get()
    with handled(end), peers():
        train(cfg, dict(hydra.runtime.choices), list(hydra.overrides.task))


if __name__ == "__main__":
    command("train", main, with_saved_options, joined=joined)
