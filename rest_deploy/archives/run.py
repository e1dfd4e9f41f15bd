"""Archives of images to a file of results: what is asked for, and the order of the steps."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from rest_deploy.archives.results import Output, row, rows_of
from rest_deploy.archives.sources import BLOCK, Item, Listing, Shard
from rest_deploy.artifact.address import Address, located
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.errors import ConfigError, ImageError, PredictorError
from rest_deploy.predictor import DEFAULT_TOP_K, Predictor
from rest_deploy.runtimes.registry import can_sleep, read_info, row_for
from rest_deploy.specs import USUAL_MAX_PIXELS, Activation, Device

#: Rows of blocks, in order.
Answers = Generator[bytes, None, None]
#: How many images are done, of how many, and how many a second.
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class ArchiveRequest:
    """What is to be classified, by what, and where the rows go.

    Args:
        artifact: Path of the artifact.
        sources: As of :class:`~rest_deploy.archives.sources.Listing`.
        output: Where the rows go.
        resume: Whether to go on from rows that are there.
        ray: Address of a Ray cluster; empty for one on this machine; None to do without.
        top_k, device, threads, max_pixels: As of ``Predictor``.

    Raises:
        ConfigError: Ray is to do a shard.
    """

    artifact: str
    sources: Sequence[str]
    output: Output
    resume: bool = False
    ray: str | None = None
    top_k: int | None = None
    device: str | None = None
    threads: int | None = None
    max_pixels: int | None = USUAL_MAX_PIXELS

    def __post_init__(self) -> None:
        if self.ray is not None and self.output.shard is not None:
            raise ConfigError(
                f"--shard {self.output.shard} with --ray: Ray shares the images out itself; leave one out"
            )

    def predictor(self) -> Predictor:
        """Open the artifact here; threads that spin would take cores from those that decode."""
        spinning = not can_sleep(self.artifact, self.device)
        options = {"threads": self.threads, "max_pixels": self.max_pixels}
        return Predictor(self.artifact, self.device, allow_spinning=spinning, **options)


@dataclass(frozen=True)
class Done:
    """What was made: rows, those with an error among them; no numbers where the results were there already."""

    path: str
    images: int | None = None
    failed: int | None = None


def run(
    request: ArchiveRequest,
    opened: Callable[[ArtifactInfo], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
    report: Progress = lambda *_: None,
) -> Done:
    """Classify all images of a request that have no row yet, and write the results.

    Args:
        request: What is asked for.
        opened: Called with what the artifact says of itself.
        warn: Called with what was left out of the sources.
        report: Called after each block of images.

    Raises:
        ConfigError: Rows or results are there and not to be gone on with, or of another run; a source is damaged.
        ImageError: A source is missing, or there are no images. What is wrong with one image stands in its row.
        ExportError: The results cannot be written.
        ArtifactError, CheckpointError, DeviceError, MissingPackageError, PredictorError: As of ``Predictor``, or Ray
            fails. The rows that are there are kept.
    """
    answers = answers_here
    if request.ray is not None:
        from rest_deploy.archives import on_ray

        on_ray.check_installed()
        answers = on_ray.answers_on_ray
    with rows_of(request.output, resume=request.resume) as rows:
        info = read_info(request.artifact)
        opened(info)
        digest = digest_of(request.artifact)
        with closing(Listing(request.sources, request.output.owns)) as listing:
            if listing.note:
                warn(listing.note)
            rows.begin(_record(request, info, digest, listing))
            if rows.finished:
                return Done(request.output.target)
            first, end = (request.output.shard or Shard(1, 1)).blocks(listing.count)
            images = min(end * BLOCK, listing.count) - min(first * BLOCK, listing.count)
            begin = first + rows.kept(listing.blocks(first, end))
            before, start = rows.images, time.monotonic()
            if begin < end:
                with closing(answers(request, digest, listing.blocks(begin, end), warn)) as made:
                    for lines in made:
                        rows.append(lines)
                        rate = (rows.images - before) / max(time.monotonic() - start, 1e-9)
                        report(rows.images, images, rate)
        rows.finish()
    return Done(request.output.target, rows.images, rows.failed)


def digest_of(artifact: str) -> str:
    """SHA-256 of an artifact; of a model on a server that of its record, which names the weights."""
    place = located(artifact)
    if isinstance(place, Address):
        return hashlib.sha256(read_info(artifact).to_json().encode()).hexdigest()
    return sha256_of(place)


def _record(request: ArchiveRequest, info: ArtifactInfo, digest: str, listing: Listing) -> dict[str, object]:
    """What rows depend on; what was asked for and what is so by default are the same."""
    usual = DEFAULT_TOP_K if info.activation is Activation.SOFTMAX else info.num_classes
    device = Device.parse(row_for(request.artifact, request.device).named(request.device))
    return {
        "artifact": digest,
        "images": listing.digest,
        "shard": str(request.output.shard or Shard(1, 1)),
        "top-k": min(request.top_k or usual, info.num_classes),
        "max-pixels": request.max_pixels,
        "device": str(device),
    }


def answers_here(
    request: ArchiveRequest, digest: str, blocks: Iterator[list[Item]], warn: Callable[[str], None]
) -> Answers:
    """Rows of blocks by this process; what there is to know of where it computes is warned of."""
    with request.predictor() as predictor:
        if predictor.note:
            warn(predictor.note)
        for block in blocks:
            yield answer(predictor, block, request.top_k)


def answer(predictor: Predictor, block: Sequence[Item], top_k: int | None) -> bytes:
    """Rows of a block, in order."""
    rows = [b""] * len(block)
    with closing(predictor.stream((item.source() for item in block), top_k)) as answers:
        for index, found in answers:
            if isinstance(found, ImageError) and block[index].is_gone():
                raise PredictorError(
                    f"{block[index].name}: it was there when images were listed, and is gone; bring it back, then "
                    "--resume"
                )
            rows[index] = row(block[index], found)
    return b"".join(rows)
