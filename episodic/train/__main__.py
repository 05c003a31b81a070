"""The command that trains a learner, keeps the best weights and tests them.

python -m episodic.train task=... learner=... backbone=...
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from episodic.config.command import command
from episodic.run.distributed import joined, peers
from episodic.train.interrupt import end, handled
from episodic.train.session import train
from episodic.train.sweep import Sweep, train_one


def main(cfg: DictConfig) -> None:
    """Train as the command line says; in a sweep, one of its runs."""
    hydra = HydraConfig.get()
    with handled(end), peers():
        if hydra.mode == RunMode.MULTIRUN:
            train_one(cfg, hydra)
        else:
            train(cfg, dict(hydra.runtime.choices), list(hydra.overrides.task))


if __name__ == "__main__":
    with Sweep() as sweep:
        command("train", main, sweep.prepare, joined=joined)
        sweep.finish()
