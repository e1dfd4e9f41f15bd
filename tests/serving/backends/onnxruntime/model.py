"""What stands in the tests' server for Triton's own ONNX Runtime backend, which no package brings: one in Python.

The server of PyPI's nvidia-pytriton has the Python backend alone. Named ``onnxruntime`` and told by ``platform:
"onnxruntime_onnx"``, this one lets it load a repository as it is. Runs in the server's environment, with NumPy below 2.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

DTYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_UINT8": np.uint8}


class TritonPythonModel:
    """One instance of a model."""

    def initialize(self, args):
        """Open the file with what the parameters of Triton's own backend say."""
        if int(np.__version__.partition(".")[0]) > 1:
            raise RuntimeError(f"NumPy {np.__version__}: this server's Python backend gives wrong values with it")
        config = json.loads(args["model_config"])
        told = {key: value["string_value"] for key, value in config["parameters"].items()}
        options = onnxruntime.SessionOptions()
        options.enable_mem_pattern = told.get("enable_mem_pattern", "1") == "1"
        options.intra_op_num_threads = int(told.get("intra_op_thread_count", "0"))
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.run_options = onnxruntime.RunOptions()
        if shrunk := told.get("memory.enable_memory_arena_shrinkage"):
            self.run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrunk)
        self.inputs = [one["name"] for one in config["input"]]
        self.outputs = {one["name"]: DTYPES[one["data_type"]] for one in config["output"]}

    def execute(self, requests):
        """Run all requests of a batch in one call, as Triton's own backend does."""
        rows = [[triton.get_input_tensor_by_name(one, name).as_numpy() for name in self.inputs] for one in requests]
        counts = [own[0].shape[0] for own in rows]
        feed = {name: np.concatenate([own[i] for own in rows]) for i, name in enumerate(self.inputs)}
        found = self.session.run(list(self.outputs), feed, self.run_options)
        ends = np.cumsum(counts)
        answers = []
        for end, count in zip(ends, counts, strict=True):
            tensors = [
                triton.Tensor(name, values[end - count : end].astype(dtype, copy=False))
                for (name, dtype), values in zip(self.outputs.items(), found, strict=True)
            ]
            answers.append(triton.InferenceResponse(tensors))
        return answers
