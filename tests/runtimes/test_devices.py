"""Devices by name."""

import pytest

from rest_deploy.errors import DeviceError
from rest_deploy.runtimes.devices import Device


@pytest.mark.parametrize(
    ("text", "device", "full"),
    [
        ("cpu", Device("cpu"), "cpu"),
        ("cuda", Device("cuda", 0), "cuda:0"),
        ("cuda:0", Device("cuda", 0), "cuda:0"),
        ("cuda:1", Device("cuda", 1), "cuda:1"),
        ("cuda:15", Device("cuda", 15), "cuda:15"),
    ],
)
def test_names_are_read_and_written(text, device, full):
    assert Device.parse(text) == device
    assert str(device) == full
    assert Device.parse(full) == device


@pytest.mark.parametrize(
    "text",
    ["", "gpu", "CPU", "Cuda", " cpu", "cpu\n", "cpu:0", "cuda:", "cuda:-1", "cuda:a", "cuda:0,1", "cuda:1111"],
)
def test_other_names_are_refused(text):
    with pytest.raises(DeviceError, match=r"device .*; accepted: cpu, cuda, cuda:0, cuda:1, \.\.\."):
        Device.parse(text)
