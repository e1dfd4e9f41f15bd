"""The same rows by Ray Data: blocks go to a pool of actors, one predictor each, and their rows come back in order."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rest_deploy.archives.run import Answers, ArchiveRequest, answer, digest_of
from rest_deploy.archives.sources import Item
from rest_deploy.artifact.address import is_address
from rest_deploy.errors import (
    ArtifactError,
    ConfigError,
    DeviceError,
    MissingPackageError,
    PredictorError,
    RestDeployError,
    one_line,
)
from rest_deploy.runtimes.registry import RUNTIMES, read_info
from rest_deploy.specs import Device

if TYPE_CHECKING:
    from rest_deploy.predictor import Predictor

_PATIENCE = 10.0  # seconds for a cluster to answer
#: Kinds of devices that are GPUs as Ray counts them, of which CUDA_VISIBLE_DEVICES shows a worker its own.
_GPU_BY_NUMBER = ("cuda", "tensorrt", "tensorrt-rtx")


def check_installed() -> None:
    """Check, before any work, that Ray is there.

    Raises:
        MissingPackageError: It is not.
    """
    for package in ("ray", "pyarrow", "pandas"):  # ray[data]
        if find_spec(package) is None:
            raise MissingPackageError(package, "predict on Ray", "ray")


class Worker:
    """An actor: opens the artifact where it runs, and answers blocks.

    Errors come back as text, as an exception of an actor is one of Ray's, of many lines.
    """

    def __init__(self, request: ArchiveRequest, digest: str) -> None:
        self._request, self._digest = request, digest
        self._predictor: Predictor | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Rows of a batch of one block."""
        (block,) = batch["block"]
        items = [Item(*item) for item in json.loads(zlib.decompress(block))]
        try:
            predictor = self._opened()
            rows = answer(predictor, items, self._request.top_k)
            return {"rows": [rows], "error": [""], "note": [predictor.note]}
        except (RestDeployError, OSError, MemoryError) as exc:
            return {"rows": [b""], "error": [one_line(exc)], "note": [""]}

    def _opened(self) -> Predictor:
        if self._predictor is None:
            path = self._request.artifact
            if digest_of(path) != self._digest:
                raise ArtifactError(f"{path}: is another file on {socket.gethostname()}; have one on all machines")
            self._predictor = self._request.predictor()
        return self._predictor


def answers_on_ray(
    request: ArchiveRequest, digest: str, blocks: Iterator[list[Item]], warn: Callable[[str], None]
) -> Answers:
    """Rows of blocks by a Ray cluster, in order; what there is to know of where they compute is warned of once.

    Raises:
        DeviceError: One GPU is asked for by its number, or the cluster has no room for a worker.
        PredictorError: The cluster cannot be reached, or it or a worker fails.
    """
    request, needs = worker_of(request)
    with _cluster(request.ray or None) as ray:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = sum(min(int(has.get(kind, 0) // number) for kind, number in needs.items()) for has in machines)
        if not workers:
            has = {kind: max((own.get(kind, 0) for own in machines), default=0) for kind in needs}
            asked, there = (", ".join(f"{of[kind]:g} {kind}" for kind in needs) for of in (needs, has))
            raise DeviceError(
                f"a worker takes {asked}; no machine of Ray's has more than {there}; give fewer --threads, or add one"
            )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.execution_options.preserve_order = False, True
        # compressed, as names are alike: the list of 5 million images takes some 50 MB in all
        packed = [{"block": zlib.compress(json.dumps(block).encode())} for block in blocks]
        answered = ray.data.from_items(packed, override_num_blocks=len(packed)).map_batches(
            Worker,
            fn_constructor_args=(request, digest),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU"),
        )
        told = {""}
        for row in answered.iter_rows():
            if row["error"]:
                raise PredictorError(f"{row['error']}; what is done is kept for --resume")
            if row["note"] not in told:
                told.add(row["note"])
                warn(row["note"])
            yield row["rows"]


def worker_of(request: ArchiveRequest) -> tuple[ArchiveRequest, dict[str, int]]:
    """The request of one worker, and what it takes of a machine: a thread, and a GPU where the artifact runs on one.

    Raises:
        DeviceError: One GPU is asked for by its number.
    """
    row = RUNTIMES[read_info(request.artifact).format]
    device = Device.parse(request.device or row.default_device)
    on_gpu = device.kind in _GPU_BY_NUMBER
    if on_gpu and request.device and ":" in request.device:
        raise DeviceError(f"--device {request.device} with --ray: Ray chooses the GPU; give --device {device.kind}")
    if not is_address(request.artifact):
        request = replace(request, artifact=os.path.abspath(request.artifact))
    needs = {"CPU": request.threads or 1}
    if device.kind != "server":  # whose threads are its own
        request = replace(request, threads=needs["CPU"])
    return request, needs | ({"GPU": 1} if on_gpu else {})


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected; without an address it is started here, for this job alone and on the loopback interface alone.

    One that runs here is joined by ``auto``. To look for it where no address is given, as Ray does, may take minutes:
    of one that died the address is still there.

    Raises:
        ConfigError: It is no address.
        PredictorError: It cannot be reached, or it fails.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it reports to its makers unless told not to
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else a thread of Ray Data's that is late would start a cluster
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # binds to loopback, on Linux too; read on import
    import ray.data
    import ray.exceptions

    level = logging.getLogger("rest_deploy").getEffectiveLevel()
    own = {"include_dashboard": False} if address is None else {}
    try:
        if address is not None:
            _knock(address)
        with ray.init(address or "local", logging_level=level, log_to_driver=False, **own):
            logging.getLogger("ray.data").setLevel(level)
            yield ray
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as exc:
        if isinstance(exc, RestDeployError):
            raise
        where = f"Ray at {address}" if address else "Ray"
        raise PredictorError(f"{where}: {one_line(exc)}; see `ray status`; what is done is kept for --resume") from exc


def _knock(address: str) -> None:
    """Refuse an address at which nobody is, for whom Ray would wait many minutes.

    Raises:
        ConfigError: It is no address.
        OSError: Nobody answers.
    """
    if address.startswith("ray://"):
        raise ConfigError(f"--ray {address}: Ray Data has no such clients; run it in the cluster, with --ray auto")
    match = re.fullmatch(r"(.+):(\d{1,5})", address)
    if match:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=_PATIENCE).close()
    elif address != "auto":
        raise ConfigError(f"--ray {address}: accepted: auto, HOST:PORT, or --ray alone, as the last word")
