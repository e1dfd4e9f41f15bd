"""Plant faults in a copy of the package, one at a time, and run the test of the first lane that must find each.

python -m tests.planted_faults [WORD]   (make faults: all of them; a word of its name picks some)

The exit code is 1 where a row's text is not in its file, or its test passes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rest_deploy.machine import usable_cores

ROOT = Path(__file__).parent.parent
_COPIED = ("rest_deploy", "tests", "examples", "benchmarks", "docs")


@dataclass(frozen=True)
class Fault:
    """A row: ``old`` stands once in ``file`` of the package and becomes ``new``; ``test`` must fail then."""

    name: str
    file: str
    old: str
    new: str
    test: str


FAULTS = (
    Fault(
        "a size baked into the graph",
        "models/network.py",
        "return x.mean(dim=self.axes)",
        "return x.sum(dim=self.axes) / (x.shape[self.axes[0]] * x.shape[self.axes[1]])",
        "tests/export/test_trace.py::test_traces_the_deploy_form_without_a_size",
    ),
    Fault(
        "a wrong weight in the deploy form",
        "models/stages.py",
        "attn.q.bias.double() * attn.scale",
        "attn.q.bias.double()",
        "tests/models/test_deploy.py::test_is_the_same_function_with_lively_weights",
    ),
    Fault(
        "a bias of one head's queries that is left out",
        "models/stages.py",
        "nn.functional.pad(x, (0, 1), value=1.0)",
        "nn.functional.pad(x, (0, 1), value=0.0)",
        "tests/models/test_deploy.py::test_is_the_same_function_with_lively_weights",
    ),
    Fault(
        "a bias in one operator with its GELU, which is slower",
        "runtimes/ort.py",
        '"BiasGeluFusion"',
        '"GeluFusion"',
        "tests/runtimes/test_ort.py::test_gelu_is_one_operator_apart_from_its_bias",
    ),
    Fault(
        "blocks of INT8 that are judged as if rounding did nothing",
        "export/checks.py",
        "max(tolerance, *(own[name] for own in noise))",
        "tolerance",
        "tests/export/test_blockwise.py::test_what_rounding_does_to_a_graph_is_no_fault_of_its_blocks",
    ),
    Fault(
        "a Pad by any number",
        "artifact/onnx_graph.py",
        "math.inf) > _MOST_PAD",
        "math.inf) < 0",
        "tests/reliability/test_untrusted_onnx.py::test_what_no_file_that_takes_pictures_has_is_refused",
    ),
    Fault(
        "queries of the last block that are left out",
        "models/stages.py",
        "range(0, q.shape[2], queries)",
        "range(0, q.shape[2] - queries + 1, queries)",
        "tests/models/test_stages.py::test_the_last_block_is_the_rest",
    ),
    Fault(
        "an InstanceNorm in blocks without its mean square",
        "models/rest.py",
        "squares.mean(dim=2, keepdim=True) - mean * mean",
        "-mean * mean",
        "tests/models/test_stages.py::test_blocks_give_the_same",
    ),
    Fault(
        "blocks while gradients are needed",
        "models/stages.py",
        "torch.is_grad_enabled() and any(",
        "torch.is_inference_mode_enabled() and any(",
        "tests/models/test_stages.py::test_gradients_are_of_whole_maps",
    ),
    Fault(
        "a block with the weights of another",
        "export/assemble.py",
        "deploy.get_submodule(name)",
        "deploy[kind]",
        "tests/export/test_assemble.py::test_each_piece_has_its_own_weights_and_names",
    ),
    Fault(
        "levels that are not rounded between both passes",
        "export/pixels.py",
        "level = graph.Add(whole, graph.Floor(left))",
        "level = graph.Add(whole, left)",
        "tests/export/test_pixels.py::test_every_bit_is_pillow_s[bilinear-crop]",
    ),
    Fault(
        "a picture that is resized rows first, however tall",
        "export/pixels.py",
        "graph.Greater(graph.Min(less, more), graph.weight([0]))",
        "graph.Greater(graph.Min(less, more), graph.weight([1 << 40]))",
        "tests/export/test_pixels.py::test_large_pictures[shape1]",
    ),
    Fault(
        "a Range of constants that counts as a picture's",
        "artifact/onnx_graph.py",
        "made = known.largest[names[1]]",
        "made = math.inf",
        "tests/reliability/test_untrusted_onnx.py::test_what_no_file_that_takes_pictures_has_is_refused"
        "[a product of two ranges]",
    ),
    Fault(
        "a half softmax",
        "models/deploy.py",
        "(nn.LayerNorm, Centre, Pool, CentredSoftmax, Softmax)",
        "(nn.LayerNorm, Centre, Pool)",
        "tests/export/precision/test_plan.py::test_the_deploy_form_declares_what_stays_fp32",
    ),
    Fault(
        "a flipped bit that nobody looks for",
        "artifact/onnx_file.py",
        "self.content[sealed:] != _seal(memoryview(self.content)[:sealed])",
        "len(self.content[sealed:]) != _SEAL_BYTES",
        "tests/artifact/test_onnx_file.py::test_the_seal_covers_all",
    ),
    Fault(
        "a killed export that loses the old file",
        "artifact/files.py",
        "    source.replace(target)\n",
        "    target.unlink(missing_ok=True)\n    source.rename(target)\n",
        "tests/reliability/test_crash_safety.py::test_death_at_every_line_leaves_the_old_or_the_new_one[file]",
    ),
    Fault(
        "a CUDA provider that lies",
        "runtimes/ort.py",
        "active = session.get_providers()",
        'active = ["CUDAExecutionProvider"]',
        "tests/runtimes/test_ort.py::test_a_provider_that_did_not_start_is_an_error",
    ),
    Fault(
        "an eps of LayerNorm that is not the config's",
        "models/stages.py",
        "self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)",
        "self.norm2 = nn.LayerNorm(dim)",
        "tests/models/test_rest.py::test_the_config_says_the_eps_of_its_layer_norms",
    ),
    Fault(
        "GELU by tanh",
        "models/stages.py",
        "self.act = nn.GELU()",
        'self.act = nn.GELU(approximate="tanh")',
        "tests/models/test_rest.py::test_agrees_with_the_authors_numbers",
    ),
    Fault(
        "a position code without its bias",
        "models/stages.py",
        "x * self.pa_conv(x).sigmoid()",
        "x * (self.pa_conv(x) - self.pa_conv.bias[:, None, None]).sigmoid()",
        "tests/models/test_rest.py::test_agrees_with_the_authors_numbers",
    ),
    Fault(
        "heads and their channels swapped",
        "models/network.py",
        "x.flatten(1, 2).unflatten(2, (num_heads, -1)).transpose(1, 2)",
        "x.flatten(1, 2).unflatten(2, (-1, num_heads)).permute(0, 3, 1, 2)",
        "tests/models/test_deploy.py::test_is_the_same_function_with_lively_weights",
    ),
    Fault(
        "one INT8 scale for all channels of a weight",
        "export/precision/int8.py",
        "most = np.abs(weight.astype(np.float64)).max(axis=others)",
        "most = np.full(weight.shape[axis], np.abs(weight.astype(np.float64)).max())",
        "tests/export/precision/test_int8.py::test_weights_keep_their_largest_value_in_every_channel",
    ),
    Fault(
        "a calibration on the first batch alone",
        "export/precision/calibration.py",
        "enumerate(batches, 1)",
        "enumerate([next(iter(batches))], 1)",
        "tests/export/precision/test_ranges.py::test_ranges_are_of_the_values_in_the_graph",
    ),
    Fault(
        "a profile from its largest to its smallest size",
        "export/engine/builder.py",
        "(profile.min, profile.opt, profile.max)",
        "(profile.max, profile.opt, profile.min)",
        "tests/export/engine/test_builder.py::test_the_calls_of_a_build",
    ),
    Fault(
        "a timing cache that is not read",
        "export/engine/builder.py",
        "cache = build_config.create_timing_cache(blob)",
        'cache = build_config.create_timing_cache(b"")',
        "tests/export/engine/test_timing_cache.py::test_the_next_build_knows_what_the_last_one_measured",
    ),
    Fault(
        "threads that were asked for and are not given",
        "runtimes/ort.py",
        "options.intra_op_num_threads = threads or usable_cores()",
        "options.intra_op_num_threads = usable_cores()",
        "tests/runtimes/test_threads.py::test_what_is_asked_for_is_given",
    ),
    Fault(
        "an answer in a neighbour's row",
        "runtimes/base.py",
        "outputs[name][held] = values[: len(held)]",
        "outputs[name][: len(held)] = values[: len(held)]",
        "tests/runtimes/test_not_finite.py::test_one_image_that_is_not_finite",
    ),
    Fault(
        "zeros for an image that is not finite",
        "runtimes/base.py",
        "np.full(shape, np.nan, np.float32)",
        "np.zeros(shape, np.float32)",
        "tests/runtimes/test_not_finite.py::test_one_image_that_is_not_finite",
    ),
    Fault(
        "outputs under each other's names",
        "runtimes/ort.py",
        "zip(self._names, session.run",
        "zip(self._names[::-1], session.run",
        "tests/verification/test_outputs.py::test_a_runtime_gives_every_output_by_its_name",
    ),
    Fault(
        "a seal over the beginning alone",
        "artifact/onnx_file.py",
        "hashlib.sha256(content).hexdigest()",
        "hashlib.sha256(content[:4096]).hexdigest()",
        "tests/artifact/test_onnx_file.py::test_the_seal_covers_all",
    ),
    Fault(
        "a record of before that stays",
        "artifact/onnx_file.py",
        "content[: len(content) - size], info.to_json()",
        "content[: len(content) - size], dict(metadata).get(METADATA_KEY, info.to_json())",
        "tests/artifact/test_onnx_file.py::test_a_record_replaces_the_one_before",
    ),
    Fault(
        "a file that gets its name before the disk has its content",
        "artifact/files.py",
        "os.fsync(file.fileno())",
        "file.flush()",
        "tests/artifact/test_engine_files.py::test_a_disk_that_tells_only_when_flushed_that_it_is_full",
    ),
    Fault(
        "a folder of work in progress without its lock",
        "artifact/workspace.py",
        "handle = _lock(folder, wait=True)",
        "handle = None",
        "tests/reliability/test_crash_safety.py::test_the_lock_tells_who_is_alive",
    ),
    Fault(
        "a crop that is off by a pixel",
        "preprocess/transform.py",
        "left, top = round((width - size.width) / 2), round((height - size.height) / 2)",
        "left, top = (width - size.width) // 2, (height - size.height) // 2",
        "tests/preprocess/test_transform.py::test_default_is_the_authors_transform",
    ),
    Fault(
        "blue for red",
        "preprocess/transform.py",
        "pixels[..., channel]",
        "pixels[..., -1 - channel]",
        "tests/preprocess/test_transform.py::test_each_channel_has_its_own_mean_and_std",
    ),
    Fault(
        "a mean that is not divided by std",
        "preprocess/transform.py",
        "-np.asarray(preprocessing.mean) / std",
        "-np.asarray(preprocessing.mean)",
        "tests/preprocess/test_transform.py::test_native_only_normalises",
    ),
    Fault(
        "another resize filter",
        "preprocess/transform.py",
        "Interpolation.BICUBIC: Image.Resampling.BICUBIC",
        "Interpolation.BICUBIC: Image.Resampling.BILINEAR",
        "tests/preprocess/test_transform.py::test_warp_at_384",
    ),
    Fault(
        "a cosine without norms",
        "verification/figures.py",
        "(ours * exact).sum(axis=axis) / np.maximum(norms, _TINY)",
        "(ours * exact).sum(axis=axis)",
        "tests/verification/test_figures.py::test_a_scaled_logit",
    ),
    Fault(
        "a divergence the wrong way round",
        "verification/figures.py",
        "p, q = _log_softmax(exact), _log_softmax(ours)",
        "p, q = _log_softmax(ours), _log_softmax(exact)",
        "tests/verification/test_figures.py::test_kl_divergence_of_two_known_distributions",
    ),
    Fault(
        "a limit that NaN is within",
        "verification/limits.py",
        "elif not figures.max_error <= allowed:",
        "elif figures.max_error > allowed:",
        "tests/verification/test_limits.py::test_what_is_no_number_is_past_every_limit",
    ),
    Fault(
        "a limit that its own value is past",
        "verification/limits.py",
        "not figures.top1_agreement >= least",
        "not figures.top1_agreement > least",
        "tests/verification/test_limits.py::test_agreement_and_accuracy_are_judged_where_they_are_limited",
    ),
    Fault(
        "the mean of the rounds for their median",
        "benchmarking/statistics.py",
        "float(np.median(ratios))",
        "float(np.mean(ratios))",
        "tests/benchmarking/test_statistics.py::test_rounds_that_were_disturbed_do_not_move_the_ratio",
    ),
    Fault(
        "a ratio turned over",
        "benchmarking/statistics.py",
        "np.median(own) / np.median(other)",
        "np.median(other) / np.median(own)",
        "tests/benchmarking/test_statistics.py::test_ratios_are_formed_within_rounds",
    ),
    Fault(
        "an interval with both tails on one side",
        "benchmarking/statistics.py",
        "(1 - confidence) / 2",
        "1 - confidence",
        "tests/benchmarking/test_statistics.py::test_intervals_are_those_of_the_sign_test",
    ),
    Fault(
        "a torn block that is gone on with",
        "archives/results.py",
        "self._file.truncate(end)",
        "pass",
        "tests/archives/test_run.py::test_resume_goes_on_behind_the_last_whole_block",
    ),
    Fault(
        "a damaged tar file taken for one that ends",
        "archives/sources.py",
        "        if damage:",
        "        if False:",
        "tests/archives/test_sources.py::test_a_damaged_tar_file_is_an_error_before_anything_is_done",
    ),
    Fault(
        "the last block of a shard left to nobody",
        "archives/sources.py",
        "blocks * self.number // self.count",
        "(blocks - 1) * self.number // self.count",
        "tests/archives/test_run.py::test_shards_in_turn_are_one_run",
    ),
    Fault(
        "rows in the order in which they were answered",
        "archives/run.py",
        "rows[index] = row(block[index], found)",
        'rows[rows.index(b"")] = row(block[index], found)',
        "tests/archives/test_run.py::test_a_row_for_each_image",
    ),
    Fault(
        "labels that a browser reads as HTML",
        "export/web/app.js",
        "name.append(label);",
        "name.innerHTML = label;",
        "tests/export/test_web_format.py::test_texts_are_never_html",
    ),
    Fault(
        "a page that may load from elsewhere",
        "export/web/index.html",
        "connect-src 'self'",
        "connect-src *",
        "tests/export/test_web_format.py::test_the_policy_lets_in_its_own_folder_alone",
    ),
    Fault(
        "a server's other model under the labels of the first",
        "runtimes/triton.py",
        "if not same:",
        "if False:",
        "tests/runtimes/test_triton.py::test_another_model_of_the_same_name",
    ),
    Fault(
        "an image that is gone taken for a broken one",
        "archives/run.py",
        "block[index].is_gone()",
        "False",
        "tests/archives/test_run.py::test_a_source_that_goes_away_is_no_fault_of_its_images",
    ),
    Fault(
        "a graphics card without a driver taken for a GPU",
        "runtimes/webgpu.py",
        'if sys.platform == "linux":',
        "if False:",
        "tests/runtimes/test_webgpu.py::test_which_adapter_is_taken",
    ),
    Fault(
        "TensorRT in ONNX Runtime computing in TF32",
        "runtimes/onnx_tensorrt.py",
        'os.environ.get(_TF32) != "0"',
        "False",
        "tests/runtimes/test_onnx_tensorrt.py::test_tf32_is_to_be_forbidden",
    ),
    Fault(
        "a node on another provider than was asked for",
        "runtimes/ort.py",
        "if subgraph.ep_name == provider:",
        "if subgraph.ep_name != _CPU:",
        "tests/runtimes/test_onnx_tensorrt.py::test_a_provider_that_lies",
    ),
    Fault(
        "a server's word for the file that was verified here",
        "report/report.py",
        '(artifact["device"].text == "server") == served',
        "True",
        "tests/report/test_content.py::test_what_a_server_says_of_its_file_proves_nothing",
    ),
    Fault(
        "a number of a GPU that may be another one",
        "runtimes/onnx_tensorrt.py",
        "(count := nvidia.gpu_count() or 0) > 1",
        "(count := nvidia.gpu_count() or 0) > 9",
        "tests/runtimes/test_onnx_tensorrt.py::test_of_several_gpus_the_plugin_takes_none",
    ),
    Fault(
        "a plan in an image of another TensorRT",
        "serving/container.py",
        'found[1] in (row[0], row[0].rpartition(".")[0])',
        'found[1].rpartition(".")[0] == row[0].rpartition(".")[0]',
        "tests/serving/test_repository.py::test_an_image_is_that_of_all_four_numbers",
    ),
    Fault(
        "a worker of Ray that computes with all of a machine's cores",
        "archives/on_ray.py",
        'request = replace(request, threads=needs["CPU"])',
        "pass",
        "tests/archives/test_run.py::test_a_worker_of_ray_computes_with_the_cores_that_it_takes",
    ),
    Fault(
        "maps that OpenVINO turns round",
        "runtimes/openvino.py",
        'kind == "Transpose"',
        'kind == "Turn"',
        "tests/runtimes/test_openvino.py::test_no_map_is_turned_round",
    ),
    Fault(
        "channels that OpenVINO does not put last",
        "runtimes/openvino.py",
        "np.array([0, 2, 1])",
        "np.array([0, 1, 2])",
        "tests/runtimes/test_openvino.py::test_rows_give_the_numbers_of_maps",
    ),
    Fault(
        "what is the same along an axis, added by rows in OpenVINO",
        "runtimes/openvino.py",
        " and shape == other.get_partial_shape()",
        "",
        "tests/runtimes/test_openvino.py::test_maps_of_another_kind_stay",
    ),
    Fault(
        "norms of another axis, by rows in OpenVINO",
        "runtimes/openvino.py",
        "_numbers(axes.get_node()) == [-1]",
        "True",
        "tests/runtimes/test_openvino.py::test_maps_of_another_kind_stay",
    ),
    Fault(
        "products of all channels in one sum, in OpenVINO",
        "runtimes/openvino.py",
        "if self.target.in_memory:",
        "if not self.target.in_memory:",
        "tests/runtimes/test_openvino.py::test_a_file_is_computed_in_short_sums",
    ),
    Fault(
        "channels of a convolution with the weights of others, in OpenVINO",
        "runtimes/openvino.py",
        "in zip(values, weights, strict=True)",
        "in zip(values, weights[::-1], strict=True)",
        "tests/runtimes/test_openvino.py::test_sums_are_short",
    ),
)


def find(fault: Fault) -> str | None:
    """Plant a fault in a copy and run its test; None where the test finds it, else what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        return _find(fault, Path(folder))


def _find(fault: Fault, folder: Path) -> str | None:
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.[mt][dox][mlt]*"):
        shutil.copy(file, folder)
    path = folder / "rest_deploy" / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        return f"{fault.file} has {text.count(fault.old)} times {fault.old!r}; mend the row"
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "-m", "not slow", fault.test]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )
    if done.returncode != 1 or "FAILED" not in done.stdout:  # an error while collecting finds nothing
        return f"{fault.test} ended with {done.returncode}: {done.stdout[-300:]}"
    return None


def main(word: str = "") -> int:
    """Try the faults with a word in their name."""
    missed, faults = 0, [fault for fault in FAULTS if word in fault.name]
    with ThreadPoolExecutor(usable_cores()) as pool:
        for fault, wrong in zip(faults, pool.map(find, faults), strict=True):
            missed += wrong is not None
            print(f"{fault.name}: {wrong or f'found by {fault.test}'}", flush=True)
    print(f"{len(faults) - missed} of {len(faults)} faults are found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
