"""One training's folder, and the machine it runs on: checkpoints, curves, device, features."""
