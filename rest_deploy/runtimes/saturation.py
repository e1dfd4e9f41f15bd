"""Does this CPU add products of 8-bit integers exactly? Asked of ONNX Runtime itself.

x86 without VNNI multiplies unsigned by signed bytes with vpmaddubsw, which adds two products in 16 bits and saturates:
with weights of the full range, sums come out too small, and nothing says so. Whether it happens depends on the CPU and
on ONNX Runtime's kernels, so it is tried: 255 times 127, summed.
"""

from __future__ import annotations

import base64
import functools

import numpy as np

from rest_deploy.errors import DeviceError, one_line

#: An ONNX file of one MatMulInteger of uint8 (m, k) and int8 (k, n), for where the onnx package is not installed;
#: tests/runtimes/test_saturation.py builds the same bytes with it.
_GRAPH = base64.b64decode(
    "CAUSC3Jlc3RfZGVwbG95OmsKGAoBYQoBYhIBeSINTWF0TXVsSW50ZWdlchIKc2F0dXJhdGlvbloVCgFhEhAKDggCEgoKAxIBbQoDEgFrWhUKAWISEAoO"
    "CAMSCgoDEgFrCgMSAW5iFQoBeRIQCg4IBhIKCgMSAW0KAxIBbkIECgAQCg=="
)
_SIDE = 64


@functools.cache
def sums_saturate() -> bool:
    """Whether sums of 8-bit products saturate in ONNX Runtime on this CPU.

    Raises:
        DeviceError: ONNX Runtime cannot multiply integers here.
    """
    import onnxruntime

    largest = np.full((1, _SIDE), 255, np.uint8), np.full((_SIDE, _SIDE), 127, np.int8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(_GRAPH, options, providers=["CPUExecutionProvider"])
        (sums,) = session.run(None, dict(zip(("a", "b"), largest, strict=True)))
    except Exception as exc:  # ONNX Runtime's errors share no public base class
        raise DeviceError(f"ONNX Runtime cannot multiply 8-bit integers on this CPU: {one_line(exc)}") from exc
    return bool((np.asarray(sums) != 255 * 127 * _SIDE).any())
