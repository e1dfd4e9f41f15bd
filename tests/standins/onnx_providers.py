"""Stand-ins for TensorRT's providers of ONNX Runtime: they compute on the CPU, and say what a test lets them say."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from rest_deploy import nvidia
from rest_deploy.runtimes import ort

CPU_EP, CUDA_EP = "CPUExecutionProvider", "CUDAExecutionProvider"
TRT_EP, RTX_EP = "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"
PROVIDERS = {"tensorrt": TRT_EP, "tensorrt-rtx": RTX_EP}


@dataclass
class FakeProvider:
    """ONNX Runtime with one of the two, on a machine with GPUs.

    Args:
        kind: Of device.
        gpus: That CUDA's driver shows.
        taken: Of them those that TensorRT-RTX takes; None for all.
        active: Providers that a session says it has.
        stray: Operator -> the provider that it says runs it; TensorRT runs the others.
        raises: What making a session raises.
    """

    kind: str
    gpus: int = 1
    taken: int | None = None
    active: Sequence[str] | None = None
    stray: Mapping[str, str] = field(default_factory=dict)
    raises: Exception | None = None
    #: What it was asked for: options of its own, the GPU's number among them, and the bytes of the file.
    asked: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def provider(self) -> str:
        """Its name."""
        return PROVIDERS[self.kind]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
        """Let a test find it, with TF32 forbidden as it must be."""
        fake = self

        class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
            own: dict[str, str]

            def add_provider(self, name: str, options: dict[str, str]) -> None:
                assert name == TRT_EP == fake.provider
                self.own = options

            def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
                (device,) = devices
                assert device.ep_name == RTX_EP == fake.provider
                self.own = {"device_id": device.number, **options}

        class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
            def __init__(self, model: Any, options: Any = None, **named: Any) -> None:
                self.asked = hasattr(options, "own")
                if self.asked:
                    assert named == {"providers": None, "enable_fallback": 0}
                    fake.asked.append((options.own, model))
                    if fake.raises is not None:
                        raise fake.raises
                    named = {"providers": [CPU_EP]}
                super().__init__(model, options, **named)

            def get_providers(self) -> list[str]:
                if not self.asked:  # it is on the CPU
                    return [CPU_EP]
                return [fake.provider, CPU_EP] if fake.active is None else list(fake.active)

            def get_provider_graph_assignment_info(self) -> list[Any]:
                nodes = [node for part in super().get_provider_graph_assignment_info() for node in part.get_nodes()]
                places = [fake.stray.get(node.op_type, fake.provider) for node in nodes]
                pairs = list(zip(places, nodes, strict=True))
                return [
                    SimpleNamespace(ep_name=name, get_nodes=lambda name=name: [own for ep, own in pairs if ep == name])
                    for name in dict.fromkeys(places)
                ]

        plugin = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
        plugin.get_library_path = lambda: "/plugin.so"  # type: ignore[attr-defined]
        taken = self.gpus if self.taken is None else self.taken
        found = [SimpleNamespace(ep_name=RTX_EP, number=str(number)) for number in range(taken)]
        listed = [*([TRT_EP] if self.provider == TRT_EP else []), CPU_EP]
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", plugin)
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
        monkeypatch.setattr(nvidia, "gpu_count", lambda: self.gpus)
        monkeypatch.setattr(ort, "registered", {})
        for name, value in {
            "SessionOptions": Options,
            "InferenceSession": Session,
            "get_available_providers": lambda: listed,
            "register_execution_provider_library": lambda *_: None,
            "get_ep_devices": lambda: found,
        }.items():
            monkeypatch.setattr(onnxruntime, name, value)
        return self
