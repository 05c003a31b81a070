"""Prototypical Networks as a plain torch loop: one picture after the other, without this package. The row `commands` runs it.

python scripts/benchmark/plain_torch.py predict <weights> <support> <query>
python scripts/benchmark/plain_torch.py evaluate <weights> <split.csv> <images> <episodes>
"""

import csv
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

MEAN = torch.tensor([120.39586422, 115.59361427, 104.54012653]) / 255
STD = torch.tensor([70.68188272, 68.27635443, 72.54505529]) / 255
BLOCKS = "backbone.blocks."


def network(weights: str) -> nn.Module:
    """Conv4 in float32."""
    blocks = [
        nn.Sequential(nn.Conv2d(width, 64, 3, padding=1), nn.BatchNorm2d(64), nn.MaxPool2d(2), nn.ReLU())
        for width in (3, 64, 64, 64)
    ]
    model = nn.Sequential(*blocks)
    model.load_state_dict({name.removeprefix(BLOCKS): x for name, x in load_file(weights).items()})
    return model.eval()


def embed(model: nn.Module, file: Path) -> torch.Tensor:
    pixels = np.asarray(Image.open(file).convert("RGB").resize((84, 84), Image.Resampling.BILINEAR))
    image = (torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255 - MEAN[:, None, None]) / STD[:, None, None]
    return model(image[None]).flatten()


def predict(weights: str, support: str, query: str) -> list[tuple[str, str, float]]:
    """`(file, class, probability)` of each query."""
    model, prototypes = network(weights), {}
    for folder in sorted(Path(support).iterdir()):
        prototypes[folder.name] = torch.stack([embed(model, file) for file in sorted(folder.iterdir())]).mean(0)
    names, centers = list(prototypes), torch.stack(list(prototypes.values()))
    answers = []
    for file in sorted(Path(query).iterdir()):
        probabilities = (-(embed(model, file) - centers).square().sum(1)).softmax(0)
        answers.append((file.name, names[int(probabilities.argmax())], float(probabilities.max())))
    return answers


def evaluate(weights: str, table: str, images: str, episodes: str) -> float:
    """Accuracy over 5-way 1-shot episodes with 15 queries a class."""
    model, classes, draw = network(weights), {}, random.Random(0)
    with open(table, newline="") as file:
        for line in csv.DictReader(file):
            classes.setdefault(line["label"], []).append(Path(images) / line["filename"])
    right = 0
    for _ in range(int(episodes)):
        ways = [draw.sample(classes[name], 16) for name in draw.sample(sorted(classes), 5)]
        centers = torch.stack([embed(model, files[0]) for files in ways])
        for label, files in enumerate(ways):
            for file in files[1:]:
                right += int((embed(model, file) - centers).square().sum(1).argmin()) == label
    return right / (75 * int(episodes))


if __name__ == "__main__":
    with torch.inference_mode():
        print(json.dumps({"predict": predict, "evaluate": evaluate}[sys.argv[1]](*sys.argv[2:])))
