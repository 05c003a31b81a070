"""The common core that all learners share: backbones, distances, losses, regularizers and formulas."""
