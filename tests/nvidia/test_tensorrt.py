"""Which TensorRT is there, imported under the first of its names; its log, and the reason of a failure out of it."""

import logging
import sys
from enum import Enum
from importlib.machinery import ModuleSpec
from threading import Thread
from types import ModuleType, SimpleNamespace

import pytest

from rest_deploy.artifact.engine import LIBRARIES
from rest_deploy.errors import ArtifactError, DeviceError, ExportError, MissingPackageError
from rest_deploy.nvidia import Library, TensorRTLog, is_installed, load_library, ran_out_of_memory

NAMES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


@pytest.fixture
def machine(monkeypatch):
    """A machine on which only the modules named, with their versions, are installed."""

    def make(**versions):
        for name in NAMES:
            module = None
            if name in versions:
                module = ModuleType(name)
                module.__spec__ = ModuleSpec(name, None)
                module.__version__ = versions[name]
            monkeypatch.setitem(sys.modules, name, module)

    return make


@pytest.fixture
def broken(machine, monkeypatch, tmp_path):
    """A tensorrt that is there and raises when it is imported."""

    def make(statement):
        machine()
        monkeypatch.delitem(sys.modules, "tensorrt")
        (tmp_path / "tensorrt.py").write_text(statement)
        monkeypatch.syspath_prepend(tmp_path)

    return make


@pytest.mark.parametrize(
    ("there", "installed"),
    [
        ({}, set()),
        ({"tensorrt": "10.9.0.34"}, {"trt"}),
        ({"tensorrt_rtx": "1.7.1.116"}, {"trt-rtx"}),
        ({"tensorrt_rtx_bindings": "1.7.1.116"}, {"trt-rtx"}),
        ({"tensorrt": "10.9.0.34", "tensorrt_rtx": "1.7.1.116"}, {"trt", "trt-rtx"}),
    ],
)
def test_what_is_installed(machine, there, installed):
    machine(**there)
    assert {name for name in LIBRARIES if is_installed(name)} == installed


def test_looking_does_not_import(broken):
    broken("raise SystemExit('it was imported')")
    assert is_installed("trt")
    assert "tensorrt" not in sys.modules


@pytest.mark.parametrize(
    ("name", "there", "module", "title"),
    [
        ("trt", {"tensorrt": "10.9.0.34", "tensorrt_rtx": "1.7"}, "tensorrt", "TensorRT 10.9.0.34"),
        ("trt-rtx", {"tensorrt": "10", "tensorrt_rtx_bindings": "1.7"}, "tensorrt_rtx_bindings", "TensorRT-RTX 1.7"),
        ("trt-rtx", {"tensorrt_rtx": "1.8", "tensorrt_rtx_bindings": "1.7"}, "tensorrt_rtx", "TensorRT-RTX 1.8"),
    ],
)
def test_a_library_is_imported_under_its_first_name(machine, name, there, module, title):
    machine(**there)
    library = load_library(name, "run this engine")
    assert library.api is sys.modules[module]
    assert library.version == there[module]
    assert (library.name, str(library)) == (name, title)


@pytest.mark.parametrize(("name", "is_rtx"), [("trt", False), ("trt-rtx", True)])
def test_which_is_rtx(name, is_rtx):
    assert Library(name, None, "1.0").is_rtx is is_rtx


@pytest.mark.parametrize(
    ("name", "other", "package"),
    [("trt", "tensorrt_rtx", "tensorrt"), ("trt-rtx", "tensorrt", "tensorrt-rtx-cu13-bindings")],
)
def test_a_missing_library_names_its_package(machine, name, other, package):
    """One does not stand for the other."""
    machine(**{other: "10.9.0.34"})
    said = rf'^{package} is needed to run this engine; install it: pip install "rest-deploy\[{name}\]"$'
    with pytest.raises(MissingPackageError, match=said):
        load_library(name, "run this engine")


@pytest.mark.parametrize(
    "error",
    [
        "OSError('libnvinfer.so.10: cannot open shared object file')",
        "ImportError('libnvinfer.so.10: cannot open shared object file')",
        "RuntimeError('libnvinfer.so.10: cannot open shared\\nobject file')",
    ],
)
def test_a_library_that_does_not_load(broken, error):
    broken(f"raise {error}")
    said = r"^tensorrt is installed but does not load: libnvinfer\.so\.10: cannot open shared object file$"
    with pytest.raises(DeviceError, match=said):
        load_library("trt", "run this engine")


@pytest.mark.skipif(not is_installed("trt-rtx"), reason="pip install 'rest-deploy[trt-rtx]'")
def test_the_real_one():
    library = load_library("trt-rtx", "test")
    assert library.version.startswith("1.")
    assert library.api.Builder


# Its log.

Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

#: What TensorRT-RTX 1.7 logs on a machine without a driver.
NOISE = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/common/dispatch/"
    "checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
)
NO_GPU = NOISE.replace("cudaError 35", "cudaError 100")


class ILogger:
    """As TensorRT's: a base class that must be initialised."""

    def __init__(self):
        self.made = True


@pytest.fixture
def log():
    return make_log()


def make_log(keep=None):
    return TensorRTLog(Library("trt", SimpleNamespace(ILogger=ILogger), "10.9.0.34"), keep)


def tell(log, *messages, severity=Severity.ERROR):
    for message in messages:
        log.logger.log(severity, message)


def test_the_logger_is_one_of_tensorrt(log):
    assert isinstance(log.logger, ILogger)
    assert log.logger.made


def test_messages_are_kept_in_order_whatever_their_severity(log):
    for number, severity in enumerate(Severity):
        tell(log, str(number), severity=severity)
    assert log.messages() == ["0", "1", "2", "3", "4"]


def test_messages_from_a_place_on(log):
    tell(log, "before")
    start = log.mark()
    assert log.messages(start) == []
    tell(log, "after")
    assert log.messages(start) == ["after"]


def test_only_the_latest_are_kept_and_places_stay_true():
    log = make_log(keep=3)
    tell(log, "0", "1")
    start = log.mark()
    tell(log, "2", "3")
    assert log.messages() == ["1", "2", "3"]
    assert log.messages(start) == ["2", "3"]
    assert log.reasons(start) == "2; 3"


def test_the_reasons_are_the_errors_as_one_line(log):
    tell(log, "first\n  of two lines", severity=Severity.INTERNAL_ERROR)
    tell(log, "no reason", severity=Severity.WARNING)
    tell(log, "second", "second")
    assert log.reasons() == "first of two lines; second"


def test_reasons_from_a_place_on(log):
    tell(log, "before")
    start = log.mark()
    tell(log, "after")
    assert log.reasons(start) == "after"


@pytest.mark.parametrize("noise", [NOISE, NO_GPU])
def test_the_noise_of_a_machine_without_a_gpu_is_no_reason(log, noise):
    tell(log, noise, "the reason", noise)
    assert log.reasons() == "the reason"


@pytest.mark.parametrize("noise", [NOISE, NO_GPU])
def test_noise_within_a_message_does_not_take_the_reason_along(log, noise):
    """The ONNX parser hands on all that was logged since, in one message."""
    tell(log, f"the reason\n{noise}\nand more")
    assert log.reasons() == "the reason and more"


@pytest.mark.parametrize(
    "message", [NOISE.replace("cudaError 35", "cudaError 2"), NOISE.replace("cudaError 35", "cudaError 350")]
)
def test_other_errors_of_cuda_are_reasons(log, message):
    tell(log, message)
    assert log.reasons() == message


def test_the_frame_of_a_parser_message_is_left_out(log):
    tell(
        log,
        'ModelImporter.cpp:140: While parsing node number 0 [Foo -> "y"]:',
        "ModelImporter.cpp:142: --- Begin node ---\nNode name: stage1_0/foo",
        "ModelImporter.cpp:143: --- End node ---",
        "ModelImporter.cpp:151: ERROR: no such operator",
    )
    assert log.reasons() == "ModelImporter.cpp:151: ERROR: no such operator"


def test_no_reason(log):
    tell(log, NOISE)
    tell(log, "a warning", severity=Severity.WARNING)
    assert log.reasons() == "TensorRT 10.9.0.34 gave no reason"


def test_warnings_are_told_once_each(log):
    tell(log, "one\n line", "two", "one line", severity=Severity.WARNING)
    tell(log, "an error")
    assert log.warnings() == ("one line", "two")


def test_a_second_logger_in_the_process_is_nothing_to_be_warned_of(log):
    differs = "The logger passed into createInferBuilder differs from one already provided for an existing builder"
    tell(log, differs, f"And {differs}", severity=Severity.WARNING)
    assert log.warnings() == (f"And {differs}",)


@pytest.mark.parametrize("value", [0, True, 1, -2, -1.0, "", b"", [], object()])
def test_anything_else_is_given_back(log, value):
    tell(log, "an error of no consequence")
    assert log.attempt("load it", ArtifactError, lambda: value) is value


@pytest.mark.parametrize("value", [None, False, -1])
def test_a_call_that_gives_a_failure_is_raised_with_its_own_reason(log, value):
    def call(*arguments):
        tell(log, f"no {arguments}")
        return value

    tell(log, "before")
    with pytest.raises(ArtifactError, match=r"^TensorRT 10\.9\.0\.34 could not load it: no \(1, 2\)$"):
        log.attempt("load it", ArtifactError, call, 1, 2)


@pytest.mark.parametrize("error", [TypeError("factory function returned nullptr"), RuntimeError("bad\narray")])
def test_a_call_that_raises_is_told_of_with_the_log(log, error):
    def call():
        tell(log, "the reason")
        raise error

    said = " ".join(str(error).split())
    with pytest.raises(ExportError, match=rf"could not start: the reason \({said}\)$") as caught:
        log.attempt("start", ExportError, call)
    assert caught.value.__cause__ is error


def test_a_call_that_succeeds_gives_what_it_gives(log):
    tell(log, "an error of no consequence")
    assert log.attempt("divide", ExportError, divmod, 7, 2) == (3, 1)


def test_errors_of_another_kind_pass(log):
    with pytest.raises(ZeroDivisionError, match="by zero"):
        log.attempt("divide", ExportError, divmod, 7, 0)


@pytest.mark.parametrize(
    ("severity", "level"),
    [(Severity.WARNING, logging.WARNING), (Severity.INFO, logging.INFO), (Severity.VERBOSE, logging.DEBUG)],
)
def test_what_is_no_failure_goes_on_to_logging(log, caplog, severity, level):
    with caplog.at_level(logging.DEBUG, "rest_deploy"):
        tell(log, "100% done", severity=severity)
    assert caplog.record_tuples == [("rest_deploy.nvidia", level, "TensorRT 10.9.0.34: 100% done")]


@pytest.mark.parametrize("severity", [Severity.ERROR, Severity.INTERNAL_ERROR])
def test_failures_are_raised_and_not_logged_as_well(log, caplog, severity):
    with caplog.at_level(logging.DEBUG, "rest_deploy"):
        tell(log, "the reason", severity=severity)
    assert not caplog.records


def test_messages_of_several_threads_are_all_kept(log):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=tell, args=(log, *["message"] * 500)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert [record.number for record in log._since(0)] == list(range(2000))


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)", True),
        ("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", True),
        ("Requested amount of GPU memory (17179869184 bytes) could not be allocated.", True),
        ("Could not find any implementation for node a due to insufficient workspace. See verbose log", True),
        ("it refuses it: INSUFFICIENT_GPU_MEMORY", True),
        ("Error Code 10: Internal Error (Could not find any implementation for node a.)", False),
        ("CUDA driver version is insufficient for CUDA runtime version", False),
        ("tensor /memory/a could not be allocated a name", False),
    ],
)
def test_messages_of_memory_that_ran_out(message, memory):
    """In the words of TensorRT 8 to 10, as reports of them quote them."""
    assert ran_out_of_memory(message) is memory


@pytest.mark.skipif(not is_installed("trt-rtx"), reason="pip install 'rest-deploy[trt-rtx]'")
def test_a_real_failure_comes_with_its_reason():
    """Bytes that are no ONNX: the parser gives False, and tells the logger alone why."""
    library = load_library("trt-rtx", "test")
    trt, log = library.api, TensorRTLog(library)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    with pytest.raises(ExportError, match=f"^{library} could not read it: .*Failed to parse the ONNX model"):
        log.attempt("read it", ExportError, parser.parse, b"no model")
