"""A profile of a training step: what is counted for which part, held to what can be counted."""

import argparse
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture
def procedure():
    from benchmark import profile

    return profile.ready(2, 2, 1, 16, profile.Hardware(torch.device("cpu"), torch.float32))


@pytest.mark.parametrize("shape", [(5, 15, 3, 84), (60, 5, 1, 28)])
def test_flops_of_convolutions_are_those_that_torch_counts(shape):
    from benchmark import profile

    procedure = profile.ready(*shape, profile.Hardware(torch.device("cpu"), torch.float32))
    counter = FlopCounterMode(display=False)
    with counter:
        procedure.training_step()
    counted = {str(operation): n for operation, n in counter.get_flop_counts()["Global"].items()}
    flops = profile.conv_flops(procedure)
    assert flops["forward"] == counted["aten.convolution"]
    assert flops["backward"] == counted["aten.convolution_backward"]


def marked(function):
    """The function, inside an event of the profiler named `marker`."""

    def call(*arguments, **options):
        with record_function("marker"):
            return function(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("stage", "where"),
    [
        ("data", lambda p: (p.setup.store.__class__, "gather")),
        ("normalize", lambda p: (p.setup.augment.__class__, "__call__")),
        ("forward, rest", lambda p: (p.setup.learner.backbone.blocks, "forward")),
        ("head and loss", lambda p: (p.setup.learner, "classify")),
        ("optimizer", lambda p: (p.optimizer, "step")),
        ("Python between", lambda p: (p.setup.learner, "after_step")),
    ],
)
def test_work_counts_for_the_stage_it_is_done_in(procedure, monkeypatch, stage, where):
    from benchmark import profile

    owner, name = where(procedure)
    if stage == "optimizer":
        owner.register_step_pre_hook(marked(lambda *_: None))
    else:
        monkeypatch.setattr(owner, name, marked(getattr(owner, name)))
    with profile.ranges():
        (step,) = profile.profiled_steps(procedure, 1)
    assert {found for event, found in profile.stages(step) if event.name == "marker"} == {stage}


def event(name, seconds, *below):
    """As the profiler has it: the time of an event without that of those below it, in microseconds."""
    return SimpleNamespace(name=name, self_cpu_time_total=1e6 * seconds, cpu_children=list(below))


def test_time_counts_for_the_nearest_stage_around_it():
    from benchmark import profile

    backward = "autograd::engine::evaluate_function: "
    step = event(
        "stage: Python between",
        1,
        event("stage: data", 2, event("aten::index_select", 4)),
        event(
            "stage: head and loss",
            8,
            event("stage: forward, rest", 16, event("aten::conv2d", 32, event("aten::mkldnn_convolution", 64))),
            event("aten::cdist", 128),
        ),
        event(f"{backward}ConvolutionBackward0", 256, event("aten::convolution_backward", 512)),
        event("Optimizer.step#Adam.step", 1024, event("aten::add_", 2048)),
        event("aten::item", 4096),
    )
    assert profile.parts_of(step) == {
        "Python between": 1 + 4096,
        "data": 2 + 4,
        "head and loss": 8 + 128,
        "forward, rest": 16,
        "forward, conv": 32 + 64,
        "backward, conv": 256 + 512,
        "optimizer": 1024 + 2048,
    }


def test_layers_and_their_gradients_are_parts_of_a_step(procedure):
    from benchmark import profile

    with profile.ranges():
        procedure.training_step()
        steps = profile.profiled_steps(procedure, 3)
    layers = {f"{way}, {kind}" for way in ("forward", "backward") for kind in ("conv", "norm", "pool", "ReLU", "rest")}
    rest = {"data", "normalize", "head and loss", "optimizer", "Python between"}
    assert procedure.step == 4
    assert len(steps) == 3
    for step in steps:
        parts = profile.parts_of(step)
        assert set(parts) == layers | rest
        assert parts.total() == pytest.approx(step.cpu_time_total / 1e6)  # nothing is left out, nothing counts twice


def test_steps_are_averaged_over_their_quicker_half():
    from benchmark import profile

    steps = [Counter(a=3, b=1), Counter(a=1, b=1), Counter(a=5, b=5), Counter(a=2, b=1)]
    assert profile.quicker_half(steps) == {"a": 1.5, "b": 1}
    assert profile.quicker_half(steps[:3]) == {"a": 2, "b": 1}


def test_a_profile_says_its_largest_parts_and_how_near_the_limit_convolutions_are(monkeypatch):
    from benchmark import profile

    monkeypatch.setattr(profile, "SETTINGS", {"tiny": (2, 2, 1, 16)})
    monkeypatch.setattr(profile, "product_rate", lambda dtype: 1e9)
    entries, text = profile.profile(argparse.Namespace(seconds=0.01))
    rows = {entry["row"]: entry for entry in entries}
    parts = [entry for entry in entries if "share" in entry]
    assert sum(entry["share"] for entry in parts) == pytest.approx(1)
    assert sum(entry["ours"] for entry in parts) == pytest.approx(rows["profile, tiny, sum / plain step"]["ours"])
    conv = rows["profile, tiny, forward, conv"]
    # 6 images, 64 channels, 9 weights for each input channel, on 16, 8, 4 and 2 pixels a side
    flops = 2 * 6 * 64 * 9 * (16**2 + 64 * (8**2 + 4**2 + 2**2))
    assert conv["flops"] * conv["ours"] == pytest.approx(flops)
    assert conv["of_limit"] == pytest.approx(conv["flops"] / 1e9)
    largest = [entry["row"].removeprefix("profile, tiny, ") for entry in parts[:3]]
    assert f"tiny: largest are {', '.join(largest)}." in text


@pytest.mark.parametrize(("plain", "trusted"), [(1.1, True), (0.8, False), (1.3, False)])
def test_a_sum_far_from_the_plain_step_is_said(plain, trusted):
    from benchmark import profile

    parts = {"forward, conv": 0.7, "data": 0.2, "optimizer": 0.1}
    _, text = profile.describe("a", parts, plain, {}, 1.0)
    assert ("trust no share" in text) is not trusted
