"""What must not change while the package is rebuilt: names, flags, exit codes, refusals, exported bytes, accuracy.

What is frozen lies in tests/data/frozen. Where it is to change, write it anew and read the difference:

    python -m tests.test_frozen --write
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.metadata
import inspect
import io
import json
import math
import os
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

import rest_deploy
from benchmarks import accuracy
from rest_deploy import (
    Predictor,
    Preprocessing,
    ResTConfig,
    benchmark,
    create_model,
    errors,
    export,
    save_checkpoint,
    verify,
)
from rest_deploy.errors import (
    ArtifactError,
    CheckpointError,
    ConfigError,
    DeviceError,
    ExportError,
    ImageError,
    InputError,
    PredictorError,
    RestDeployError,
)
from rest_deploy.export import pixels
from rest_deploy.export.blockwise import whole
from rest_deploy.models.rest import ResT
from rest_deploy.specs import ImageSize, InputKind
from tests.conftest import IMAGES, TINY

FROZEN = Path(__file__).parent / "data" / "frozen"
COMMANDS = ("export", "predict", "verify", "bench", "info", "doctor", "serve")

#: Of Python, whose argparse lays out the frozen help texts; others break lines in other places.
HELP_PYTHON = (3, 11)

#: What writes the bytes of a graph. Other versions may name values and order nodes in other ways.
WRITERS = ("torch", "onnx", "onnxscript", "onnxsim")

#: Activations are computed in float32, whose sums are taken in an order of the CPU's own; that moves the range of an
#: activation by some 1e-6 of it. Weights, their scales and all else of a graph do not depend on it.
SCALE_TOLERANCE = 1e-4

#: Errors of float32 are a few units in the last place of the worst logit. They depend on the order of sums, so on the
#: CPU. What the deploy form gains at 224 is a factor of 40, and a wrong identity costs a thousand.
ACCURACY_FACTOR = 5.0
ACCURACY_SIZES = ((65, 48), (224, 224), (225, 230))


# ---- a network that is the same on every machine


def _weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Eighths and finer, of few bits: sums and products of them are exact in float64, whatever the order."""
    integers = np.random.RandomState(zlib.crc32(key.encode())).randint(-128, 129, shape)
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
        return torch.as_tensor(1 + integers / 1024)
    if len(shape) <= 1:
        return torch.as_tensor(integers / 1024)
    return torch.as_tensor(integers / 2.0 ** (6 + round(math.log2(np.prod(shape[1:])) / 2)))


def frozen_model() -> ResT:
    """The tiny network with exact weights, none of them near zero, biases and statistics of BatchNorm too."""
    model = create_model(TINY)
    model.load_state_dict({key: _weight(key, tuple(value.shape)) for key, value in model.state_dict().items()})
    return model


@dataclass(frozen=True)
class Made:
    """What the tests share: the network, its checkpoint, images, and its file in each precision, not verified."""

    folder: Path
    model: ResT
    graphs: Mapping[str, Path]

    @property
    def checkpoint(self) -> Path:
        """Of the network."""
        return self.folder / "frozen.safetensors"

    @property
    def onnx(self) -> Path:
        """In FP32."""
        return self.graphs["fp32"]


def make(folder: Path) -> Made:
    """Export the network once in each precision."""
    model, images = frozen_model(), folder / "calibration"
    save_checkpoint(folder / "frozen.safetensors", model)
    images.mkdir()
    random = np.random.RandomState(0)
    for number in range(24):  # the fewest that are taken
        pixels = random.randint(0, 256, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    checkpoint, fp32 = folder / "frozen.safetensors", folder / "0.onnx"
    words = ["--checkpoint", checkpoint, "-o", fp32, "--no-verify", "--transform", "native"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert _main("export")([str(word) for word in words]) == 0
    narrower: dict[str, dict[str, Any]] = {
        "fp16": {},
        "int8": {"reduced_range": True},  # 7 bits, whatever this CPU would take
        "int8 for TensorRT": {"int8_target": "trt", "calibration": images},
    }
    graphs = {"fp32": fp32}
    for number, (name, options) in enumerate(narrower.items(), 1):
        options |= {"preprocessing": Preprocessing(resize="native", size=None), "compare_speed": False}
        path, precision = folder / f"{number}.onnx", name.split()[0]
        graphs[name] = export(None, path, checkpoint=checkpoint, precision=precision, verify=False, **options)
    resized = Preprocessing(size=ImageSize(48, 33))
    for kind in (InputKind.UINT8, InputKind.PIXELS):
        path = folder / f"{kind.value}.onnx"
        options = {"preprocessing": resized, "input": kind, "verify": False}
        graphs[f"fp32 of {kind.value}"] = export(None, path, checkpoint=checkpoint, **options)
    return Made(folder, model, graphs)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("frozen"))


# ---- what is frozen


def public_names() -> dict[str, Any]:
    """Names of the package with their signatures, and the tree of errors."""
    public = {name: _shape(getattr(rest_deploy, name)) for name in sorted(rest_deploy.__all__)}
    tree = {
        name: [base.__name__ for base in value.__bases__]
        for name, value in sorted(vars(errors).items())
        if isinstance(value, type) and issubclass(value, Exception)
    }
    return {"rest_deploy": public, "errors": tree}


def _shape(value: Any) -> Any:
    if not isinstance(value, type):
        return _signature(value)
    if issubclass(value, Exception):
        return None
    members = {
        name: _signature(member) if inspect.isfunction(member) else type(member).__name__
        for name, member in sorted(vars(value).items())
        if not name.startswith("_") and type(member).__name__ != "member_descriptor"
    }
    return {"made with": _signature(value), "members": members}


def _signature(function: Callable[..., Any]) -> str:
    parameters = inspect.signature(function).parameters.values()
    return str(inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in parameters]))


class _Asked(Exception):
    """Carries a command's parser out of it."""


def flags(command: str) -> dict[str, Any]:
    """What a command takes, from its parser: argument -> defaults, choices and the like; and what excludes another."""

    def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _Asked(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(_Asked) as caught:
            _main(command)([])
    (parser,) = caught.value.args
    taken = {
        ", ".join(action.option_strings) or action.dest: {
            "default": repr(action.default),
            "choices": list(action.choices) if action.choices is not None else None,
            "metavar": action.metavar,
            "nargs": action.nargs,
            "required": action.required,
            "repeats": isinstance(action, argparse._AppendAction),
        }
        for action in parser._actions
    }
    excluding = [[action.option_strings[-1] for action in g._group_actions] for g in parser._mutually_exclusive_groups]
    return {"arguments": dict(sorted(taken.items())), "exclude each other": excluding}


def help_text(command: str) -> str:
    """What ``--help`` prints, on 100 columns."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as end:
            _main(command)(["--help"])
    assert end.value.code == 0
    return printed.getvalue()


def _main(command: str) -> Callable[[list[str]], int]:
    main: Callable[[list[str]], int] = importlib.import_module(f"rest_deploy.cli.{command}").main
    return main


def graph_of(path: Path) -> onnx.ModelProto:
    """The graph of a file as it was traced; that its record and its seal stand behind it alone is checked."""
    content = path.read_bytes()
    model = onnx.load_model_from_string(content)
    assert [entry.key for entry in model.metadata_props] == ["rest_deploy", "rest_deploy_sha256"]
    del model.metadata_props[:]
    assert content.startswith(model.SerializeToString())
    return whole(model)


def activation_scales(model: onnx.ModelProto) -> dict[str, float]:
    """Scales of activations in INT8, which are set to 0 in the graph."""
    names = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    found = {}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            found[tensor.name] = float(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((), np.float32), tensor.name))
    return found


def graphs(made: Made) -> dict[str, Any]:
    """SHA-256 of each graph without its record, seal and scales of activations; those scales; its operators."""
    told: dict[str, Any] = {"written by": writers()}
    for name, path in made.graphs.items():
        model = graph_of(path)
        operators = dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
        scales = activation_scales(model)
        content = model.SerializeToString()
        told[name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "operators": operators,
            "activation scales": scales,
        }
    return told


def writers() -> dict[str, str]:
    """Versions of what writes graphs."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in WRITERS}


def accuracy_figures(folder: Path) -> dict[str, dict[str, float]]:
    """Largest errors against float64, as benchmarks/accuracy.py measures them: of our file, of PyTorch, as written.

    Of the default weights, with which attention is nearly uniform and errors of the graph as written are largest.
    """
    subject = accuracy._subject("tiny", create_model(TINY), folder / "default", True)
    figures = {}
    with subject.ours:
        for height, width in ACCURACY_SIZES:
            random = np.random.RandomState(height)
            batch = (random.randint(-128, 129, (1, 3, height, width)) / 64).astype(np.float32)
            ours, plain, as_written, _ = accuracy._errors(subject, batch, as_written=True)
            figures[f"{height}x{width}"] = {"ours": ours, "PyTorch": plain, "as written": as_written}
    return figures


# ---- they are as they were


def _frozen(name: str) -> Any:
    return json.loads((FROZEN / f"{name}.json").read_text())


def test_public_names_and_errors() -> None:
    assert _plain(public_names()) == _frozen("names")


@pytest.mark.parametrize("command", COMMANDS)
def test_flags(command: str) -> None:
    assert _plain(flags(command)) == _frozen("flags")[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    if sys.version_info[:2] != HELP_PYTHON:
        pytest.skip(f"the frozen text is as Python {HELP_PYTHON[0]}.{HELP_PYTHON[1]} lays it out")
    assert help_text(command) == (FROZEN / f"{command}.txt").read_text()


def test_every_command_is_frozen() -> None:
    """Those that are installed."""
    scripts = importlib.metadata.distribution("rest-deploy").entry_points.select(group="console_scripts")
    assert {script.name for script in scripts} == {f"rest-{command}" for command in COMMANDS}


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "int8 for TensorRT", "fp32 of uint8", "fp32 of pixels"])
def test_exported_graphs(name: str, made: Made) -> None:
    frozen = _frozen("graphs")
    if writers() != frozen["written by"]:
        pytest.skip(f"the frozen bytes are those of {frozen['written by']}; here are {writers()}")
    if name == "fp32 of pixels" and not pixels._BY_RESULT:
        pytest.skip("the frozen graph resizes as Pillow 13.0 and later do")
    ours = graphs(made)[name]
    scales = frozen[name].pop("activation scales")
    assert ours.pop("activation scales") == pytest.approx(scales, rel=SCALE_TOLERANCE)
    assert ours == frozen[name]
    assert bool(scales) == (name == "int8 for TensorRT")


def test_accuracy(tmp_path: Path) -> None:
    frozen = _frozen("accuracy")
    ours = accuracy_figures(tmp_path)
    assert list(ours) == list(frozen)
    for size, figures in ours.items():
        for name, figure in figures.items():
            wanted = frozen[size][name]
            assert wanted / ACCURACY_FACTOR <= figure <= wanted * ACCURACY_FACTOR, (size, name)


# ---- exit codes

_IMAGE = IMAGES / "chelsea.png"

#: Command line -> exit code, and the files that it makes in the folder that it runs in.
CALLS: dict[str, tuple[int, str]] = {
    # what was asked for was done
    "export --version": (0, ""),
    "export --checkpoint {checkpoint} --dry-run": (0, ""),
    "export --checkpoint {checkpoint} --format onnx,trt-rtx --dry-run": (0, ""),
    "export --model rest_lite --fp16 --dry-run --json": (0, ""),
    "predict {onnx} {image}": (0, ""),
    "predict {onnx} {images} --json --top-k 2": (0, ""),
    "info {onnx}": (0, ""),
    "info {checkpoint} --json": (0, ""),
    "info {onnx} --memory 224 2x4000x3000": (0, ""),
    "verify {onnx} --reference {checkpoint} --sizes 32 65x48": (0, ""),
    "verify {onnx} --reference {checkpoint} --sizes 32 --no-synthetic --data {images} -o a.json": (0, "a.json"),
    "bench {onnx} --sizes 32 --min-rounds 2 --min-seconds 0.001 --no-cold -o timed.json": (0, "timed.json"),
    "doctor": (0, ""),
    "doctor --require onnx": (0, ""),
    # a check that failed
    "verify {half} --reference {onnx} --sizes 32 --no-synthetic --data {images} -o a.json": (1, "a.json"),
    "verify {half} --reference {checkpoint} --sizes 32 --max-error 1e-9": (1, ""),
    "verify {onnx} {half} --reference {checkpoint} --sizes 32 --no-synthetic": (1, ""),
    "doctor --require onnx:cuda": (1, ""),
    "predict {onnx} {image} missing.png": (1, ""),
    # what cannot be done
    "export --model resnet50": (1, ""),
    "export --checkpoint missing.pth": (1, ""),
    "export --checkpoint {checkpoint} --model rest_lite": (1, ""),
    "export --checkpoint {checkpoint} -o a/b.onnx": (1, ""),
    "export --checkpoint {checkpoint} -o a.engine": (1, ""),
    "export --checkpoint {checkpoint} --format onnx,trt-rtx -o a.onnx": (1, ""),
    "export --checkpoint {checkpoint} --max-size 64": (1, ""),
    "export --checkpoint {checkpoint} --half-io": (1, ""),
    "export --checkpoint {checkpoint} --int8 --half-io": (1, ""),
    "export --checkpoint {checkpoint} --int8 --int8-target trt": (1, ""),
    "export --checkpoint {checkpoint} --fp16 --no-verify --max-error 1": (1, ""),
    "export --checkpoint {checkpoint} --fp16 --no-speed --require-speedup 2": (1, ""),
    "export --checkpoint {checkpoint} --fp16 --sensitivity a.txt": (1, ""),
    "export --checkpoint {checkpoint} --seed 1": (1, ""),
    "export --checkpoint {checkpoint} --strict": (1, ""),
    "export --checkpoint {checkpoint} --labels {image}": (1, ""),
    "export --model rest_lite --weights-key model": (1, ""),
    "export --model rest_lite --transform native --image-size 64": (1, ""),
    "export --model rest_lite --profile 8x1x1:1x1x1:1x1x1 --format trt-rtx": (1, ""),
    "predict missing.onnx {image}": (1, ""),
    "predict {image} {image}": (1, ""),
    "predict {onnx} {onnx}": (1, ""),
    "predict {onnx} {image} --device tpu": (1, ""),
    "predict {onnx} {image} --device cuda:99": (1, ""),
    "info missing.onnx": (1, ""),
    "info {image}": (1, ""),
    "verify missing.onnx --reference {checkpoint}": (1, ""),
    "verify {onnx} --reference missing.pth": (1, ""),
    "verify {onnx} --reference {checkpoint} --max-images 2": (1, ""),
    "verify {onnx} --reference {checkpoint} --max-accuracy-loss 0.1": (1, ""),
    "verify {onnx} --reference {onnx} --weights-key model": (1, ""),
    "bench": (1, ""),
    "bench missing.onnx": (1, ""),
    "bench {onnx} --checkpoint {checkpoint}": (1, ""),
    "bench {onnx} --baseline caffe": (1, ""),
    "bench {onnx} --relative-to nobody": (1, ""),
    "bench {onnx} --compare missing.json": (1, ""),
    # wrong usage
    "export": (2, ""),
    "export --model": (2, ""),
    "export --model rest_lite --format coreml": (2, ""),
    "export --model rest_lite --format trt,trt-rtx": (2, ""),
    "export --model rest_lite --precision fp8": (2, ""),
    "export --model rest_lite --fp16 --int8": (2, ""),
    "export --model rest_lite --image-size big": (2, ""),
    "export --model rest_lite --opset 9": (2, ""),
    "export --model rest_lite --device cpu": (2, ""),
    "export --no-such-flag": (2, ""),
    "predict": (2, ""),
    "predict {onnx}": (2, ""),
    "predict {onnx} {image} --top-k 0": (2, ""),
    "predict {onnx} ''": (2, ""),
    "info": (2, ""),
    "verify {onnx}": (2, ""),
    "verify {onnx} --reference {checkpoint} --sizes 100000": (2, ""),
    "verify {onnx} --reference {checkpoint} --max-error 0": (2, ""),
    "bench {onnx} --batch 0": (2, ""),
    "doctor --require nothing": (2, ""),
}


@pytest.mark.parametrize("line", CALLS)
def test_exit_codes(
    line: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "{checkpoint}": made.checkpoint,
        "{onnx}": made.onnx,
        "{half}": made.graphs["fp16"],
        "{image}": _IMAGE,
        "{images}": IMAGES,
    }
    command, *words = line.split()
    words = [str(given.get(word, "" if word == "''" else word)) for word in words]
    try:
        code: Any = _main(command)(words)
    except SystemExit as end:
        code = end.code
    err = capsys.readouterr().err
    wanted, files = CALLS[line]
    assert code == wanted, err
    assert sorted(os.listdir(tmp_path)) == files.split()
    if code == 2:
        assert err.startswith(f"usage: rest-{command} ")
    else:
        assert "Traceback" not in err
        assert [line for line in err.splitlines() if line.startswith(("error: ", "warning: "))] == err.splitlines()


# ---- what is refused in Python

Call = Callable[[Made], object]


def _predictor(made: Made, **options: Any) -> Predictor:
    return Predictor(made.onnx, **options)


def _logits(made: Made, batch: Any) -> object:
    return _predictor(made).logits(batch)


def _closed(made: Made) -> Predictor:
    predictor = _predictor(made)
    predictor.close()
    return predictor


def _export(made: Made, **options: Any) -> object:
    """Into a folder that is not there, in case it were not refused."""
    given = {"model": None, "output": made.folder / "not there" / "x.onnx", "checkpoint": made.checkpoint}
    return export(**{**given, **options})  # type: ignore[arg-type]


_ZEROS = np.zeros((1, 3, 32, 32), np.float32)

#: What is asked for -> the type of the error.
REFUSED: dict[str, tuple[Call, type[Exception]]] = {
    "an unknown model": (lambda m: create_model("resnet50"), ConfigError),
    "no such checkpoint": (lambda m: create_model("rest_lite", checkpoint="missing.pth"), CheckpointError),
    "a checkpoint of another model": (lambda m: create_model("rest_lite", checkpoint=m.checkpoint), CheckpointError),
    "a checkpoint that is an image": (lambda m: create_model("rest_lite", checkpoint=_IMAGE), CheckpointError),
    "a config that is no number": (lambda m: ResTConfig(num_classes="7"), ConfigError),  # type: ignore[arg-type]
    "heads that do not divide widths": (lambda m: ResTConfig(num_heads=(3, 5, 7, 9)), ConfigError),
    "a std of 0": (lambda m: Preprocessing(std=(0.0, 1.0, 1.0)), ConfigError),
    "a size with no resize": (lambda m: Preprocessing(resize="native"), ConfigError),
    "no folder for a checkpoint": (lambda m: save_checkpoint(m.folder / "no" / "x.safetensors", m.model), ExportError),
    "export of nothing": (lambda m: export(None), ConfigError),
    "export into no folder": (_export, ExportError),
    "export of an unknown format": (lambda m: _export(m, format="coreml"), ConfigError),
    "export in an unknown precision": (lambda m: _export(m, precision="fp8"), ConfigError),
    "export with a wrong suffix": (lambda m: _export(m, output="x.engine"), ConfigError),
    "export with an unknown option": (lambda m: _export(m, quantum=True), ConfigError),
    "export with an option of another format": (lambda m: _export(m, max_batch=8), ConfigError),
    "export with an opset of before": (lambda m: _export(m, opset=9), ConfigError),
    "export of several formats": (lambda m: _export(m, format="onnx,trt-rtx", output="x"), ConfigError),
    "export of two engines": (lambda m: _export(m, format="trt,trt-rtx", output="x"), ConfigError),
    "export with an option of fp16": (lambda m: _export(m, half_io=True), ConfigError),
    "export to INT8 without images": (lambda m: _export(m, precision="int8", int8_target="trt"), ConfigError),
    "export to INT8 for the CPU with images": (
        lambda m: _export(m, precision="int8", calibration_images=8),
        ConfigError,
    ),
    "export with a seed below 0": (lambda m: _export(m, model="rest_lite", checkpoint=None, seed=-1), ConfigError),
    "export with a seed of given weights": (lambda m: _export(m, seed=1), ConfigError),
    "export with assumptions, strictly": (lambda m: _export(m, strict=True, output="x.onnx"), ConfigError),
    "export of no checkpoint": (lambda m: _export(m, checkpoint="missing.pth"), CheckpointError),
    "export with too few labels": (lambda m: _export(m, labels=["a"], output="x.onnx"), ArtifactError),
    "export of a module and a checkpoint": (lambda m: _export(m, model=m.model), ConfigError),
    "an artifact that is not there": (lambda m: Predictor("missing.onnx"), ArtifactError),
    "an artifact of another kind": (lambda m: Predictor("model.tflite"), ArtifactError),
    "an artifact that is an image": (lambda m: Predictor(_IMAGE), ArtifactError),
    "an engine without a manifest": (lambda m: Predictor("missing.engine"), ArtifactError),
    "an unknown device": (lambda m: _predictor(m, device="tpu"), DeviceError),
    "a GPU that is not there": (lambda m: _predictor(m, device="cuda:99"), DeviceError),
    "no threads": (lambda m: _predictor(m, threads=0), ConfigError),
    "threads that are no number": (lambda m: _predictor(m, threads="2"), ConfigError),
    "no pixels": (lambda m: _predictor(m, max_pixels=0), ConfigError),
    "a batch of float64": (lambda m: _logits(m, _ZEROS.astype(np.float64)), InputError),
    "a batch of three axes": (lambda m: _logits(m, _ZEROS[0]), InputError),
    "a batch of one channel": (lambda m: _logits(m, _ZEROS[:, :1]), InputError),
    "an empty batch": (lambda m: _logits(m, _ZEROS[:0]), InputError),
    "a batch that is a list": (lambda m: _logits(m, _ZEROS.tolist()), InputError),
    "a batch over max_pixels": (lambda m: _predictor(m, max_pixels=100).logits(_ZEROS), InputError),
    "a closed predictor": (lambda m: _closed(m).logits(_ZEROS), PredictorError),
    "a missing image": (lambda m: _predictor(m).classify("missing.png"), ImageError),
    "an image that is none": (lambda m: _predictor(m).classify(__file__), ImageError),
    "an image over max_pixels": (lambda m: _predictor(m, max_pixels=100).classify(_IMAGE), ImageError),
    "an image of float64": (lambda m: _predictor(m).classify(np.zeros((8, 8, 3))), ImageError),
    "an image that is a number": (lambda m: _predictor(m).classify(3), ImageError),
    "no best classes": (lambda m: _predictor(m).classify(_IMAGE, top_k=0), ConfigError),
    "verify of nothing": (lambda m: verify([], m.checkpoint), ConfigError),
    "verify of no artifact": (lambda m: verify("missing.onnx", m.checkpoint), ArtifactError),
    "verify against nothing": (lambda m: verify(m.onnx, "missing.pth"), CheckpointError),
    "verify at no size": (lambda m: verify(m.onnx, m.checkpoint, sizes=[(0, 32)]), ConfigError),
    "verify of neither images nor sizes": (lambda m: verify(m.onnx, m.checkpoint, synthetic=False), ConfigError),
    "verify on another device": (lambda m: verify(m.onnx, m.checkpoint, device="tpu"), DeviceError),
    "benchmark of nothing": (lambda m: benchmark([]), ConfigError),
    "benchmark at no size": (lambda m: benchmark([m.onnx], sizes=[]), ConfigError),
    "benchmark of no artifact": (lambda m: benchmark(["missing.onnx"]), ArtifactError),
    "benchmark against an unknown baseline": (lambda m: benchmark([m.onnx], baselines=["caffe"]), ConfigError),
    "benchmark with a checkpoint for nothing": (lambda m: benchmark([m.onnx], checkpoint=m.checkpoint), ConfigError),
    "benchmark relative to nobody": (lambda m: benchmark([m.onnx], relative_to="nobody"), ConfigError),
    "an unknown name": (lambda m: rest_deploy.no_such_name, AttributeError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, wanted = REFUSED[name]
    before = sorted(made.folder.rglob("*"))
    with pytest.raises((RestDeployError, AttributeError)) as caught:
        call(made)
    public = next(kind for kind in type(caught.value).__mro__ if kind.__module__ in ("rest_deploy.errors", "builtins"))
    assert public is wanted, caught.value
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert sorted(made.folder.rglob("*")) == before


# ---- writing it anew


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _save(name: str, value: Any) -> None:
    (FROZEN / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")


def main() -> None:
    """Write tests/data/frozen."""
    parser = argparse.ArgumentParser(description="Freeze what tests/test_frozen.py holds the package to.")
    parser.add_argument("--write", action="store_true", required=True, help="write tests/data/frozen anew")
    parser.parse_args()
    if sys.version_info[:2] != HELP_PYTHON:
        raise SystemExit(f"help texts are frozen as of Python {HELP_PYTHON}; change it, or use that one")
    FROZEN.mkdir(exist_ok=True)
    _save("names", public_names())
    _save("flags", {command: flags(command) for command in COMMANDS})
    for command in COMMANDS:
        (FROZEN / f"{command}.txt").write_text(help_text(command))
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder))
        _save("graphs", graphs(made))
        _save("accuracy", accuracy_figures(Path(folder)))


if __name__ == "__main__":
    main()
