import numpy as np
import pytest
import torch
from torch import nn

from episodic.run import device
from episodic.run.device import Hardware


def test_the_device_and_the_precision_are_as_asked():
    exact = Hardware.choose("cpu", "fp32")
    assert (exact.device.type, exact.dtype) == ("cpu", torch.float32)
    assert Hardware.choose("cpu", "bf16").dtype == torch.bfloat16


@pytest.mark.parametrize("supported", [True, False])
def test_auto_takes_bf16_where_the_hardware_multiplies_it(monkeypatch, supported):
    monkeypatch.setattr(device, "_multiplies_bf16", lambda where: supported)
    assert Hardware.choose("cpu", "auto").dtype == (torch.bfloat16 if supported else torch.float32)
    assert Hardware.choose("cpu", "fp32").dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("gpu", "auto"), "device must be auto, cpu, cuda, cuda:<n> or mps, got 'gpu'"),
        (("cuda:99", "auto"), "device=cuda:99 is not on this machine"),
        (("cpu", "fp8"), "precision must be auto, fp32 or bf16, got 'fp8'"),
    ],
)
def test_what_is_not_there_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Hardware.choose(*given)


def test_forward_passes_run_in_the_precision():
    layer, x = nn.Linear(4, 4), torch.ones(1, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with Hardware.choose("cpu", precision).autocast():
            assert layer(x).dtype == dtype


def test_convolutions_are_laid_out_channels_last():
    placed = Hardware.choose("cpu").place(nn.Conv2d(3, 8, 3))
    assert placed.weight.is_contiguous(memory_format=torch.channels_last)


def test_peak_memory_counts_what_was_touched():
    hardware = Hardware.choose("cpu")
    before = hardware.peak_memory()
    touched = np.ones(2**26)  # 512 MiB
    assert hardware.peak_memory() >= max(before, touched.nbytes)


def test_a_line_describes_it():
    assert Hardware.choose("cpu", "fp32").describe().endswith("threads, fp32")
