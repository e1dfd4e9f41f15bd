"""The same rows by Ray, on real clusters on the loopback interface of this machine (make ray)."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.archives.on_ray import Worker
from rest_deploy.archives.results import Output
from rest_deploy.archives.run import ArchiveRequest, run
from rest_deploy.errors import DeviceError, RestDeployError
from tests.archives.conftest import Command, rows, save
from tests.conftest import TORCH

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed; make ray has it"),
    pytest.mark.filterwarnings("default"),  # Ray's own
]
#: Of an artifact that another environment has made, where this one has no PyTorch to make one.
ARTIFACT = "REST_DEPLOY_TEST_ARTIFACT"


@pytest.fixture(scope="module")
def artifact(request: pytest.FixtureRequest) -> Path:
    if not TORCH:
        return Path(os.environ[ARTIFACT])
    path: Path = request.getfixturevalue("tiny_onnx")
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster of two machines of one CPU each, which runs before and after what joins it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on loopback alone; read on import
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        yield made.address
        made.shutdown()


def actors() -> Iterator[int]:
    """Processes of actors of the cluster that this process has started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _start(entry).startswith(b"ray::MapWorker"):
            raylet = _parent(int(entry.name))
            if raylet is not None and _parent(raylet) == os.getpid():
                yield int(entry.name)


def _start(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _parent(process: int) -> int | None:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_five_thousand_images_with_actors_killed_are_those_of_one_run(artifact: Path, tmp_path: Path) -> None:
    images = save(tmp_path / "images", 5000)
    killed: list[int] = []
    addresses: set[str] = set()

    def kill(done: int, of: int, rate: float) -> None:
        if not killed:
            import ray

            addresses.update(node["NodeManagerAddress"] for node in ray.nodes())
            assert done < of / 2
            killed.extend(actors())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    output = Output(str(tmp_path / "ray.jsonl"))
    done = run(ArchiveRequest(str(artifact), [str(images)], output, ray=""), report=kill)
    assert killed
    assert addresses == {"127.0.0.1"}
    assert (done.images, done.failed) == (5000, 50)
    run(ArchiveRequest(str(artifact), [str(images)], Output(str(tmp_path / "one.jsonl"))))
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert [row["image"] for row in rows(tmp_path / "ray.jsonl")] == [
        str(path) for path in sorted(images.rglob("*.png"))
    ]


def _noted() -> type[Worker]:
    """Workers with something to know of where they compute; made here, as Ray looks others up by their module."""

    class Noted(Worker):
        def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
            return super().__call__(batch) | {"note": ["in software"]}

    return Noted


def test_what_a_shard_less_run_has_begun_ray_ends(
    cluster: str, artifact: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a file system of pyarrow's, in Parquet, out of a folder and of a list that names the half of it again."""
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted(folder.rglob("*1.png"))))
    sources = [str(tmp_path / "list.txt"), str(folder)]

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    one, other = f"file://{tmp_path}/one.parquet", str(tmp_path / "other.parquet")
    with pytest.raises(Stop):
        run(ArchiveRequest(str(artifact), sources, Output(other)), report=stop)
    told: list[str] = []
    monkeypatch.setattr("rest_deploy.archives.on_ray.Worker", _noted())
    run(ArchiveRequest(str(artifact), sources, Output(other), ray=cluster, resume=True), warn=told.append)
    assert told.count("in software") == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = run(ArchiveRequest(str(artifact), sources, Output(one), ray=cluster))
    assert (done.images, done.failed) == (300, 3)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_another_artifact_at_the_same_path_of_a_worker_is_one_line(
    cluster: str, artifact: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rest_deploy.archives.run.sha256_of", lambda _: "0" * 64)
    with pytest.raises(RestDeployError, match=r"is another file on .*; what is done is kept for --resume") as caught:
        run(ArchiveRequest(str(artifact), [str(folder)], Output(str(tmp_path / "r.jsonl")), ray=cluster))
    assert "\n" not in str(caught.value)


def test_more_threads_than_a_machine_has(cluster: str, artifact: Path, folder: Path, tmp_path: Path) -> None:
    """Both machines together have as many."""
    request = ArchiveRequest(str(artifact), [str(folder)], Output(str(tmp_path / "r.jsonl")), ray=cluster, threads=2)
    with pytest.raises(DeviceError, match=r"takes 2 CPU; no machine of Ray's has more than 1 CPU; give fewer"):
        run(request)


def test_addresses_at_which_nobody_is(artifact: Path, folder: Path, tmp_path: Path, rest_predict: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        for address, told in (
            (nobody, f"Ray at {nobody}: "),
            (str(folder), "accepted: auto, HOST:PORT, or --ray alone, as the last word"),
            ("ray://127.0.0.1:10001", "Ray Data has no such clients; run it in the cluster, with --ray auto"),
        ):
            code, _, err = rest_predict(artifact, folder, "--output", tmp_path / "r.jsonl", "--ray", address)
            assert (code, err.count("\n")) == (1, 1)
            assert told in err
