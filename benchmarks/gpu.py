"""A GPU: errors against float64 and latency, PyTorch's and ONNX Runtime's: python -m benchmarks.gpu [--only torch]

The golden weights, which have biases. Latency is from an array of the host to one of the host, in turns; TF32 is off.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.environment import environment
from rest_deploy.export.as_written import export_as_written
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.family import family_of
from rest_deploy.models.network import Network
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.runtimes.ort import open_session
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import Device, Precision
from rest_deploy.timing import time_paired
from tests.golden import golden_model

Run = Callable[[np.ndarray], np.ndarray]
SHAPES = ((1, 224), (16, 224), (1, 448), (1, 640), (1, 1024))


def main() -> None:
    """Print a table for each of PyTorch and ONNX Runtime."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rest_small")
    parser.add_argument("--only", choices=["torch", "onnxruntime"])
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(f"{torch.cuda.get_device_name(0)}; {environment()}")
    exact = _torch_run(golden_model(arguments.model).cuda(), torch.float64)
    if arguments.only != "onnxruntime":
        _table("PyTorch, CUDA", _in_torch(arguments.model), exact, "as written, FP32", arguments.rounds)
    if arguments.only != "torch":
        with tempfile.TemporaryDirectory() as folder:
            runs = _in_onnxruntime(golden_model(arguments.model).float(), Path(folder))
            _table("ONNX Runtime, CUDA", runs, exact, "as written, FP32", arguments.rounds)


def _table(title: str, runs: dict[str, Run], exact: Run, baseline: str, rounds: int) -> None:
    print(
        f"\n{title}\n{'batch':>5} {'size':>5} {'':<26} {'error':>9} {'of std':>7} {'ms':>8} {'ratio':>6}     quartiles"
    )
    for count, size in SHAPES:
        batch = np.random.default_rng(0).standard_normal((count, 3, size, size)).astype(np.float32)
        right = exact(batch)
        made = {name: np.asarray(run(batch), np.float64) for name, run in runs.items()}
        contenders = {name: partial(run, batch) for name, run in runs.items()}
        timings = time_paired(contenders, baseline, rounds=rounds, warmup=3, settle=2)
        for name, timing in timings.items():
            error, (low, high) = np.abs(made[name] - right).max(), timing.spread
            print(
                f"{count:5d} {size:5d} {name:<26} {error:9.2e} {error / right.std():7.4f} {1e3 * timing.median:8.2f} "
                f"{timing.ratio:6.3f} {low:6.3f}-{high:6.3f}",
                flush=True,
            )


def _in_torch(name: str) -> dict[str, Run]:
    """The two forms in FP32 and by autocast, and the model as written in half throughout."""
    single = golden_model(name).float()
    written, deploy = single.cuda(), family_of(single.config).to_deploy(single).cuda()
    half = golden_model(name).half().cuda()
    return {
        "as written, FP32": _torch_run(written, torch.float32),
        "deploy form, FP32": _torch_run(deploy, torch.float32),
        "as written, autocast FP16": _torch_run(written, torch.float32, autocast=True),
        "deploy form, autocast FP16": _torch_run(deploy, torch.float32, autocast=True),
        "as written, half": _torch_run(half, torch.float16),
    }


def _torch_run(model: torch.nn.Module, dtype: torch.dtype, *, autocast: bool = False) -> Run:
    @torch.inference_mode()
    def run(batch: np.ndarray) -> np.ndarray:
        with torch.autocast("cuda", torch.float16, enabled=autocast):
            logits = model(torch.from_numpy(batch).to("cuda", dtype))
        return logits.to(torch.float32 if dtype is not torch.float64 else dtype).cpu().numpy()

    return run


def _in_onnxruntime(model: Network, folder: Path) -> dict[str, Run]:
    """The file as written, and ours in each precision; what is left to the CPU is printed."""
    weights, inputs = folder / "weights.safetensors", folder / "calibration"
    inputs.mkdir()
    for seed in range(1, 33):  # of the kind that is measured, and none of those
        noise = np.random.default_rng(seed).standard_normal((3, 224, 224)).astype(np.float32)
        np.save(inputs / f"{seed}.npy", noise)
    save_checkpoint(weights, model)
    export_as_written(model, folder / "as_written.onnx")
    written = open_session(
        str(folder / "as_written.onnx"), folder / "as_written.onnx", Device.parse("cuda"), None, strict=False
    )
    _print_nodes("as written, FP32", written)
    runs: dict[str, Run] = {"as written, FP32": lambda batch: written.run(None, {"image": batch})[0]}
    for name, precision, options in (
        ("ours, FP32", Precision.FP32, {}),
        ("ours, FP16", Precision.FP16, {"compare_speed": False}),
        (
            "ours, INT8 for TensorRT",
            Precision.INT8,
            {"compare_speed": False, "int8_target": "trt", "calibration": inputs},
        ),
    ):
        path = folder / f"{precision.value}.onnx"
        request = ExportRequest(None, path, checkpoint=weights, precision=precision, verify=False, options=options)
        runtime = open_runtime(run_export(request).path, "cuda")
        _print_nodes(name, runtime._session)
        runs[name] = lambda batch, run=runtime.run: run(batch)["logits"]
    return runs


def _print_nodes(name: str, session: object) -> None:
    """Which nodes run where; shape arithmetic belongs on the CPU, nothing else."""
    kinds: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        kinds.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    for provider, found in kinds.items():
        told = ", ".join(f"{count} {kind}" for kind, count in found.most_common(6))
        print(f"{name}: {provider} has {found.total()} nodes: {told}")


if __name__ == "__main__":
    main()
