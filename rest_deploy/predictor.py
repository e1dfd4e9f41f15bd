"""One object in front of every artifact: images in, labels and scores out."""

from __future__ import annotations

import functools
import logging
import math
import operator
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.address import Place, is_address
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import (
    ArtifactError,
    ConfigError,
    ImageError,
    InputError,
    PredictorError,
    RestDeployError,
    counted,
)
from rest_deploy.machine import USUAL, threads_for_images
from rest_deploy.models.family import config_of, family_named
from rest_deploy.runtimes.memory import check_call, most_pixels
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import (
    EMBEDDING,
    LOGITS,
    MAX_PIXELS,
    THREADS,
    TOP_K,
    USUAL_MAX_PIXELS,
    Activation,
    FeatureNorm,
    ImageSize,
    InputKind,
)
from rest_deploy.values import check, shown

if TYPE_CHECKING:  # Pillow is imported with the first image: a service that feeds batches starts without it
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    from rest_deploy.preprocess.images import ImageSource

Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)

#: Predictions for each image, where a softmax makes them one of another's.
DEFAULT_TOP_K = 5
#: Pixels of input that one call of the network takes at most, unless one image alone is more: 16 at 224x224.
_PIXELS_A_CALL = 16 * 224 * 224
#: Calls whose RGB pictures wait for others of their size at most, however many sizes there are.
_CALLS_WAITING = 4
#: Times the operations of a square that an input of another shape may take. A line takes up to 128 times as many, as
#: keys are not reduced across it.
_SHAPES = 4
_SIZES_KNOWN = 64
#: Images that are made ready during a call at most, beside one that each thread is at.
_IMAGES_AHEAD = 16
#: Sources that reading leaves as they are. A file object has a position, and Pillow decodes an image where it lies.
_READ_ANYWHERE = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray)


class Prediction(dict[str, Any]):
    """A class, its name, and its score by the artifact's activation: a dict, as JSON has it, with attributes.

    Args:
        label: Name of the class.
        index: Number of the class, from 0.
        score: Softmax or sigmoid of the logits, or the logit itself.
    """

    def __init__(self, label: str, index: int, score: float) -> None:
        super().__init__(label=label, index=index, score=score)

    @property
    def label(self) -> str:
        """Name of the class."""
        return str(self["label"])

    @property
    def index(self) -> int:
        """Number of the class, from 0."""
        return int(self["index"])

    @property
    def score(self) -> float:
        """Softmax or sigmoid of the logits, or the logit itself."""
        return float(self["score"])

    def __repr__(self) -> str:
        return f"Prediction(label={self.label!r}, index={self.index}, score={self.score!r})"


class Predictor:
    """Classify images with an artifact: ``.onnx``, ``.engine``, a PyTorch checkpoint, or a model on a server.

    May be used from several threads at once, and as a context manager. Pickled, as for ``multiprocessing``, a
    ``DataLoader`` or Ray, it is opened again where it is unpickled.

    Args:
        path: The artifact, or the address of one on a Triton server: ``http://HOST:8000/NAME``, ``https://``,
            ``grpc://HOST:8001/NAME`` or ``grpcs://``. A request that takes over a minute is an error.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"tensorrt"``, ``"tensorrt:N"``, ``"tensorrt-rtx"``,
            ``"tensorrt-rtx:N"``, ``"openvino"``, ``"openvino:NAME"``, ``"webgpu"``,
            ``"webgpu:software"``, a ``torch.device`` or the number of a GPU; never another than asked. None takes the
            CPU, for an engine the first GPU, and for a server's model what the server does.
        threads: CPU threads for one call, and the most that decode images ahead of it; None takes one for each core
            that this process may use. A server has its own.
        allow_spinning: Whether ONNX Runtime's threads go on turning for a while after a call, so that the next one
            starts sooner; False where calls are rare, or cores busy: many images are decoded beside the network.
        max_pixels: Most pixels (height times width) of the network's input, and most work: no shape may take over four
            times the operations of a square of as many, which grow with the square of the pixels. None for as many as
            memory allows. What a call would take is compared with the free memory in either case, before a picture is
            decoded.

    Raises:
        ArtifactError: The file is missing, damaged, or not one of ours.
        CheckpointError: The checkpoint cannot be read.
        DeviceError: The device is not there.
        MissingPackageError: The runtime's package is not installed.
    """

    def __init__(
        self,
        path: str | Place,
        device: Any = None,
        *,
        threads: int | None = None,
        allow_spinning: bool = True,
        max_pixels: int | None = USUAL_MAX_PIXELS,
    ) -> None:
        threads = check(THREADS, threads, "threads") if threads is not None else None
        if threads is not None and is_address(path):
            raise ConfigError(f"{path}: threads is {threads}; a server's threads are its own: leave threads out")
        max_pixels = check(MAX_PIXELS, max_pixels, "max_pixels") if max_pixels is not None else None
        allow_spinning = check(bool, allow_spinning, "allow_spinning")
        self._options = {"threads": threads, "allow_spinning": allow_spinning, "max_pixels": max_pixels}
        self._max_pixels = max_pixels
        self._large = threading.Lock()  # of calls that take much memory one runs at a time
        self._runtime = open_runtime(path, _device_name(device), threads, allow_spinning=allow_spinning)
        family, config = family_named(self.info.family), config_of(self.info)
        self._operations = functools.lru_cache(_SIZES_KNOWN)(lambda size: family.flops(config, 1, size))
        self._gives = {output.name for output in self.info.outputs}
        self._usual: set[tuple[int, ...]] = set()  # shapes that are within the limits, however little memory is free
        for told in (assumed_of(path, self.info), self.note):
            if told:
                _log.warning("%s", told)

    @property
    def info(self) -> ArtifactInfo:
        """What the artifact says of itself."""
        return self._runtime.info

    @property
    def note(self) -> str:
        """What to know of where it runs, such as that it computes in software; empty where there is nothing."""
        return self._runtime.note

    @overload
    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]: ...
    @overload
    def logits(self, batch: Any) -> Any: ...

    def logits(self, batch: Any) -> Any:
        """Logits of a batch that is already normalised, or of pictures where the file takes those.

        Args:
            batch: float32 of shape (B, channels, H, W), any height and width from 1 up, of an engine within its
                profiles; of a file whose ``info.input_kind`` is not float uint8 of shape (B, H, W, 3) in RGB. An engine
                also takes arrays that lie on its GPU (``__dlpack__`` or ``__cuda_array_interface__``), without a copy.

        Returns:
            A new float32 array of shape (B, classes); for an array on a GPU one on that GPU. An image with a value that
            is not finite, or larger than the precision of the artifact holds (65504 in FP16 and in INT8 for TensorRT,
            else 2**40), gets logits of NaN, and the others those of a batch without it. Arrays on a GPU are not looked
            at: there such an image may get finite, wrong logits.

        Raises:
            ConfigError: The artifact is a backbone.
            InputError: Wrong type, dtype, rank or size, or more than ``max_pixels`` or the free memory allow.
            PredictorError: It is closed, was forked, or memory is short; whatever the batch is.
        """
        self._require(LOGITS)
        return self._outputs(batch)[LOGITS]

    @overload
    def features(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]: ...
    @overload
    def features(self, batch: Any) -> dict[str, Any]: ...

    def features(self, batch: Any) -> dict[str, Any]:
        """Everything that a backbone gives for a batch that is already normalised.

        Maps are those of the batch as it is: padding it changes them, and is the caller's to do.

        Args:
            batch: As of :meth:`logits`.

        Returns:
            Output's name -> a new float32 array, in the artifact's order: maps ``stage1`` to ``stage4`` of shape (B,
            channels, ceil(H / stride), ceil(W / stride)), the ``embedding`` (B, channels), ``logits`` (B, classes). For
            an array on a GPU each is on that GPU. Images that are not finite are treated as by :meth:`logits`.

        Raises:
            ConfigError: The artifact gives logits alone.
            InputError, PredictorError: As of :meth:`logits`.
        """
        if self._gives == {LOGITS}:
            raise ConfigError(
                f"{self._runtime.path}: it gives logits alone; use Predictor.logits, or export it with --features"
            )
        return self._outputs(batch)

    def _require(self, output: str) -> None:
        if output not in self._gives:
            names = [own.name for own in self.info.outputs]
            method = "logits" if names == [LOGITS] else "embed" if names == [EMBEDDING] else "features"
            again = f"export it with --features {','.join([*names, output])}"
            if output == LOGITS:
                again += ", if its checkpoint is that of a classifier"
            elif not self.info.num_classes:  # of a backbone, which is trained without what stands before the head
                again += f", if its checkpoint has {family_named(self.info.family).final_norm}.weight"
            if output == LOGITS and self.info.feature_norm is FeatureNorm.CHAIN:  # no classifier is such a network
                again = "export a classifier"
            raise ConfigError(
                f"{self._runtime.path}: it gives {', '.join(names)} and no {output}: in Python use Predictor.{method}, "
                f"or {again}"
            )

    def _outputs(self, batch: Any) -> dict[str, Any]:
        # of the memory of a GPU, where other arrays lie, nothing is said here
        if isinstance(batch, np.ndarray) and batch.shape not in self._usual:
            self._runtime.check(batch)
            sizes = self.info.input_sizes(batch.shape)
            if self._runtime.call_bytes(*sizes) > USUAL:
                with self._large:  # so that what is free is not promised twice
                    self._check_input(*sizes, "the batch", InputError)
                    return self._runtime.run(batch)
            self._check_input(*sizes, "the batch", InputError)
            if len(self._usual) >= _SIZES_KNOWN:
                self._usual = set()
            self._usual.add(batch.shape)
        return self._runtime.run(batch)

    @overload
    def classify(
        self, image: list[Any] | tuple[Any, ...], top_k: int | None = ..., *, progress: Progress | None = ...
    ) -> list[list[Prediction]]: ...
    @overload
    def classify(
        self, image: Image.Image | NDArray[np.uint8], top_k: int | None = ..., *, progress: Progress | None = ...
    ) -> list[Prediction]: ...
    @overload
    def classify(  # a path may be a folder's
        self, image: str | Path, top_k: int | None = ..., *, progress: Progress | None = ...
    ) -> Any: ...

    def classify(self, image: Any, top_k: int | None = None, *, progress: Progress | None = None) -> Any:
        """Classify an image, a list of images, or the images of a folder.

        Images of different sizes may be mixed; those that the network sees at one size run together.

        Args:
            image: A path, the bytes of a file, a binary file object, a Pillow image, a uint8 array of shape (H, W, 3),
                (H, W) or (H, W, 4), a list of these, or the path of a folder, whose subfolders are searched too.
            top_k: Predictions for each image, best first; at most the number of classes are given. None for 5 of a
                softmax, and for all where each class has a score of its own.
            progress: Called with (images done, images in all).

        Returns:
            For one image a list of predictions; for a list a list of such lists, in order; for a folder a dict of path
            to predictions. ``json.dumps`` takes all of them.

        Raises:
            ConfigError: The artifact is a backbone.
            ImageError: An image cannot be read, or its logits are not finite; it names the image.
            InputError: The network takes no pictures.
            PredictorError: It is closed, was forked, or memory is short; whatever the images are.
        """
        return self._answer_all(image, lambda images: self.stream(images, top_k), progress)

    async def classify_async(self, image: Any, top_k: int | None = None, *, progress: Progress | None = None) -> Any:
        """As :meth:`classify`, in a thread of the predictor's own, so that an event loop goes on meanwhile.

        As many calls run at a time as there are usable cores, fewer where memory was short at the first; the others
        wait. Each call of several images has threads of its own that decode. With
        ``threads=1`` calls that run at a time share the cores best. A cancelled call that waits does not start; the
        answer of one that runs is dropped.

        Args:
            image, top_k: As of :meth:`classify`.
            progress: Is called in that thread.

        Raises:
            RestDeployError: As of :meth:`classify`.
        """
        import asyncio

        self._runtime.check_usable()  # a forked child would wait for threads that it does not have
        call = functools.partial(self.classify, image, top_k, progress=progress)
        return await asyncio.get_running_loop().run_in_executor(self._callers, call)

    @functools.cached_property
    def _callers(self) -> ThreadPoolExecutor:
        """Threads of :meth:`classify_async`, each started when it is first needed."""
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(max(1, threads_for_images()), "rest_deploy-async")

    def warm_up(self, sizes: Iterable[InputSize | ImageSize | tuple[int, ...]]) -> None:
        """Run the network once at each size, so that the first request of it takes no longer than later ones.

        Args:
            sizes: Of what :meth:`logits` takes: (batch, height, width), or (height, width) for a batch of one.

        Raises:
            ConfigError: A size is none; nothing was run.
            InputError: A size is outside of an engine's profiles, or over what ``max_pixels`` or memory allow.
            PredictorError: It is closed, was forked, or memory is short.
        """
        for count, height, width in [_sizes(size) for size in sizes]:
            self._check_input(count, height, width, "warm-up", InputError)
            self._outputs(np.zeros(self.info.input_shape(count, height, width), self.info.input.dtype))

    def embed(self, image: Any, *, progress: Progress | None = None) -> Any:
        """Embeddings of an image, a list of images, or the images of a folder: what a classifier's head would take.

        Args:
            image: As of :meth:`classify`.
            progress: Called with (images done, images in all).

        Returns:
            float32 of shape (N, channels), a row for each image in order, one for a single image; for a folder a dict
            of path to (channels,). They are as the network gives them: divide by their length to compare by cosine.

        Raises:
            ConfigError: The artifact gives no embedding.
            ImageError, InputError, PredictorError: As of :meth:`classify`.
        """
        self._require(EMBEDDING)
        found = self._answer_all(image, lambda images: self._stream(images, EMBEDDING, lambda row: row), progress)
        if isinstance(found, dict):
            return found
        rows = found if isinstance(image, (list, tuple)) else [found]
        channels = next(int(own.shape[1]) for own in self.info.outputs if own.name == EMBEDDING)
        return np.stack(rows) if rows else np.empty((0, channels), np.float32)

    def preprocess(self, image: ImageSource) -> NDArray[Any]:
        """Turn one image into a batch of one for :meth:`logits`.

        Args:
            image: As :meth:`classify` takes it, no folder.

        Returns:
            float32 of shape (1, channels, H, W); of a file whose ``info.input_kind`` is not float uint8 of shape (1, H,
            W, 3), resized unless the file does that itself.

        Raises:
            ImageError: It cannot be read, or would make a larger input than ``max_pixels``.
            InputError: The network takes no pictures.
        """
        return self._input(image)[None]

    def stream(
        self, images: Iterable[ImageSource], top_k: int | None = None
    ) -> Generator[tuple[int, list[Prediction] | ImageError], None, None]:
        """Classify many images, a bad one being no end of the others.

        Where pictures are brought to one size, threads decode and resize the next ones while the network runs: one for
        each core, fewer where memory is short. At most 16 are ready beside those that the threads are at. The threads
        end with the generator: close it to leave early.

        Args:
            images: As :meth:`classify` takes them, no folders; of an iterator no more are taken than are made ready.
            top_k: Predictions for each image, as of :meth:`classify`.

        Yields:
            (index of the image, its predictions or what was wrong with it), as they are done, each index once.

        Raises:
            PredictorError: No image can be answered: it is closed, was forked, or memory is short.
        """
        if top_k is not None:
            check(TOP_K, top_k, "top_k")
        self._require(LOGITS)
        return self._stream(images, LOGITS, lambda row: self._top(row, top_k))

    def _stream(
        self, images: Iterable[ImageSource], output: str, answer: Callable[[NDArray[np.float32]], Any]
    ) -> Generator[tuple[int, Any], None, None]:
        """What is answered by an image's row of an output, or what was wrong with the image, as they are done."""
        waiting: dict[tuple[int, ...], list[tuple[int, NDArray[Any]]]] = defaultdict(list)
        with closing(self._inputs(images)) as inputs:
            for index, pixels in enumerate(inputs):
                if isinstance(pixels, ImageError):
                    yield index, pixels
                    continue
                shape = pixels.shape
                waiting[shape].append((index, pixels))
                if len(waiting[shape]) < self._images_a_call(*self.info.input_sizes((1, *shape))[1:]):
                    held = sum(own.size for group in waiting.values() for _, own in group)
                    if held <= _CALLS_WAITING * 3 * _PIXELS_A_CALL:
                        continue
                    shape = max(waiting, key=lambda one: len(waiting[one]))
                yield from self._run_group(waiting.pop(shape), output, answer)
        for group in waiting.values():
            yield from self._run_group(group, output, answer)

    def _inputs(self, images: Iterable[ImageSource]) -> Generator[NDArray[Any] | ImageError, None, None]:
        """What the file takes of each image, or what is wrong with the image, in order.

        Made ahead by threads, if there are several images and all inputs are of one size: enough that the threads have
        work during a call. Where pictures come at their own size, a call may take most of the memory, of which what is
        free is asked before the next picture is decoded.
        """
        size = self.info.image_size if self.info.input_kind is not InputKind.PIXELS else None
        several = operator.length_hint(images, 2) > 1
        threads = threads_for_images() if several and size is not None else 0
        threads = min(threads, self._options["threads"] or threads)
        if size is None or not threads:
            yield from map(self._input_or_error, images)
            return
        from concurrent.futures import ThreadPoolExecutor  # 7 ms, which one image need not wait for

        ahead = threads + min(_IMAGES_AHEAD, self._images_a_call(size.height, size.width))
        sources, made = iter(images), deque[Callable[[], NDArray[Any] | ImageError]]()
        pool = ThreadPoolExecutor(threads, "rest_deploy-images")
        try:
            while True:
                for source in islice(sources, ahead - len(made)):
                    made.append(functools.partial(self._input_or_error, source))
                    if isinstance(source, _READ_ANYWHERE):
                        with suppress(RuntimeError):  # no thread is to be had: it is made at its turn
                            made[-1] = pool.submit(made[-1]).result
                if not made:
                    return
                self._runtime.check_usable()  # a forked child would wait for threads that it does not have
                yield made.popleft()()
        finally:
            pool.shutdown(cancel_futures=True)

    def _input_or_error(self, source: ImageSource) -> NDArray[Any] | ImageError:
        try:
            return self._input(source)
        except ImageError as exc:
            error: BaseException | None = exc
            while error is not None:  # the frames hold the picture and its file: 40 MB, and answers are kept
                error.__traceback__ = None
                error = error.__cause__ or error.__context__
            return exc

    def _input(self, source: ImageSource) -> NDArray[Any]:
        """What the file takes of an image, without the batch."""
        from rest_deploy.preprocess.images import load_image
        from rest_deploy.preprocess.transform import fed_size, input_of, of_pictures

        steps, kind = of_pictures(self.info.preprocessing), self.info.input_kind
        name = str(source) if isinstance(source, (str, Path)) else "image"

        def fits(height: int, width: int) -> None:
            fed = fed_size(steps, height, width, name)
            size = ImageSize(height, width) if kind is InputKind.PIXELS else fed
            self._check_input(1, size.height, size.width, name, ImageError)

        try:
            return input_of(load_image(source, steps.alpha, fits), steps, kind)
        except MemoryError as exc:
            raise PredictorError("not enough memory to turn an image into the network's input") from exc

    def _check_input(self, count: int, height: int, width: int, name: str, refusal: type[RestDeployError]) -> None:
        """Refuse an input that is over the limit, or would take more memory than there is."""
        _, high, wide = self.info.network_sizes(count, height, width)
        if self._max_pixels is not None and (most := self._over(high, wide, self._max_pixels)):
            shape = f"{height}x{width}" if count == 1 else f"{count}x{height}x{width}"
            raise refusal(f"{name}: an input of {shape} is {most}; scale it down first, or give a larger max_pixels")
        usual = self.info.image_size
        check_call(self._runtime.call_bytes, (count, height, width), name, refusal, usual=usual)

    def _over(self, height: int, width: int, most: int) -> str:
        """By what an input of the network is over the limit; empty where it is not."""
        if height * width > most:
            return f"{height * width:,} pixels, over max_pixels {most:,}"
        side = math.isqrt(most)
        needed, allowed = (self._operations(ImageSize(*size)) for size in ((height, width), (side, side)))
        if needed > _SHAPES * allowed:
            return f"{needed:.1e} operations, over {_SHAPES} times the {allowed:.1e} of a square of max_pixels {most:,}"
        return ""

    @property
    def max_pixels(self) -> int | None:
        """Most pixels of the network's input: what was given, and what memory allows at this moment for a square.

        None where neither is known, as on a GPU. A line of pixels takes more memory than a square, and may be refused.
        """
        fitting = self._fitting()
        if self.info.resizes:  # the network's input has one size
            return fitting
        return min((n for n in (self._max_pixels, fitting) if n is not None), default=None)

    def _fitting(self) -> int | None:
        """Pixels of the largest square that memory allows at this moment; None where that cannot be told."""
        return most_pixels(self._runtime.call_bytes) if self._runtime.target.in_memory else None

    def _images_a_call(self, height: int, width: int) -> int:
        """How many images of a size run together: as many as memory and the artifact allow."""
        _, *seen = self.info.network_sizes(1, height, width)
        fitting = max(1, _PIXELS_A_CALL // max(height * width, math.prod(seen)))
        most = self._runtime.max_batch(height, width)
        return fitting if most is None else min(fitting, most)

    def _run_group(
        self,
        group: list[tuple[int, NDArray[Any]]],
        output: str,
        answer: Callable[[NDArray[np.float32]], Any],
    ) -> Iterator[tuple[int, Any]]:
        try:
            rows = self._outputs(np.stack([pixels for _, pixels in group]))[output]
        except (InputError, PredictorError, MemoryError) as exc:
            if len(group) > 1 and not self._runtime.unusable:  # one by one, which takes less memory
                for one in group:
                    yield from self._run_group([one], output, answer)
            elif isinstance(exc, InputError):  # of a size that an engine was not built for
                yield group[0][0], ImageError(f"image {group[0][0]} of the list: {exc}")
            elif isinstance(exc, MemoryError):
                raise PredictorError(f"{self._runtime.path}: not enough memory for input {group[0][1].shape}") from exc
            else:
                raise
            return
        for (index, pixels), row in zip(group, rows, strict=True):
            yield index, answer(row) if np.isfinite(row).all() else self._no_answer(index, pixels, output)

    def _no_answer(self, index: int, pixels: NDArray[Any], output: str) -> ImageError:
        """What is wrong with an image whose outputs are not finite: its input, or what the network makes of it."""
        largest, accepted = float(np.abs(pixels).max()), self._runtime.largest_input
        who = f"image {index} of the list: no answer, as"
        output = "logits are" if output == LOGITS else f"{output} is"
        if not largest <= accepted:
            made = f"{who} its input has values up to {largest:.3g}; {self._runtime.path} takes at most {accepted:.6g}"
            return ImageError(f"{made}; it was exported with a wrong mean or std")
        computed = f"{who} its {output} not finite, and its input has values up to {largest:.3g} only"
        return ImageError(f"{computed}: the network overflows in {self.info.precision.value}; rest-verify tells where")

    def _answer_all(
        self,
        image: Any,
        stream: Callable[[Sequence[Any]], Generator[tuple[int, Any], None, None]],
        progress: Progress | None,
    ) -> Any:
        """One answer, a list of them, or of a folder a dict."""
        if isinstance(image, (list, tuple)):
            return _collected(stream(image), len(image), progress)
        if isinstance(image, (str, Path)) and os.path.isdir(image):
            from rest_deploy.preprocess.dataset import images_below

            found = images_below(image)
            if found.left_out:
                _log.warning("%s: %s", image, found.left_out_note)
            paths = found.images
            answers = _collected(stream(paths), len(paths), progress)
            return {str(path): answer for path, answer in zip(paths, answers, strict=True)}
        return _collected(stream([image]), 1, progress)[0]

    def _top(self, logits: NDArray[np.float32], top_k: int | None) -> list[Prediction]:
        scores = _scores(logits.astype(np.float64), self.info.activation)
        if top_k is None and self.info.activation is Activation.SOFTMAX:
            top_k = DEFAULT_TOP_K
        best = np.argsort(-logits, kind="stable")[:top_k]  # ties: the lower class number first
        return [Prediction(self.info.label(int(i)), int(i), float(scores[i])) for i in best]

    def close(self) -> None:
        """Let go of the network; may be called again without harm."""
        self._runtime.close()
        vars(self).pop("_callers", None)  # whose threads end once calls that still wait were refused

    def __repr__(self) -> str:
        info, runtime = self.info, self._runtime
        what = f"{info.model}, {info.format} {info.precision.value} on {runtime.device}, "
        what += counted(info.num_classes, "class") if info.num_classes else ", ".join(own.name for own in info.outputs)
        return f"<Predictor {str(runtime.path)!r}: {what}{', closed' if runtime.closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._runtime.closed:
            raise PredictorError(f"{self._runtime.path}: this predictor is closed; pickle one that is open")
        place = self._runtime.path
        path = str(place) if is_address(place) else os.path.abspath(place)
        return _reopened, (path, self._runtime.device, self._options, _identity(self.info))

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def assumed_of(path: str | Place, info: ArtifactInfo) -> str:
    """What is assumed of a checkpoint, in words; empty where nothing is, and of a file whose export has told it."""
    if info.format != "pytorch" or not info.assumed:
        return ""
    return f"assumed of {path}: {', '.join(info.assumed)}; rest-info lists them"


def _collected(answers: Generator[tuple[int, Any], None, None], count: int, progress: Progress | None) -> list[Any]:
    """Answers in the order of their images.

    Raises:
        ImageError: The first that is none.
    """
    found: list[Any] = [None] * count
    with closing(answers):  # else threads would wait as long as somebody keeps the error
        for done, (index, answer) in enumerate(answers, 1):
            if isinstance(answer, ImageError):
                raise answer
            found[index] = answer
            if progress is not None:
                progress(done, count)
    return found


def _sizes(size: InputSize | ImageSize | tuple[int, ...]) -> tuple[int, int, int]:
    """(batch, height, width) of the size of an input, or of an image for a batch of one."""
    try:
        found = check(InputSize | ImageSize, size, "size")
    except ConfigError as exc:
        accepted = "(height, width) or (batch, height, width), each at least 1"
        raise ConfigError(f"size {shown(size)} of a warm-up; accepted: {accepted}") from exc
    sizes: tuple[int, int, int] = found.sizes if isinstance(found, InputSize) else (1, *found.to_plain())
    return sizes


def _scores(logits: NDArray[np.float64], activation: Activation) -> NDArray[np.float64]:
    """(classes,) logits -> (classes,) scores."""
    if activation is Activation.NONE:
        return logits
    if activation is Activation.SIGMOID:
        return np.exp(-np.logaddexp(0, -logits))
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def _device_name(device: Any) -> str | None:
    """The name of a device that may be given as a ``torch.device`` or as the number of a GPU."""
    if isinstance(device, int) and not isinstance(device, bool):
        return f"cuda:{device}"
    return None if device is None else str(device)


def _identity(info: ArtifactInfo) -> str:
    """What a file says of itself; a checkpoint says the version of the PyTorch that opens it, which may be another."""
    return replace(info, versions={}).to_json()


def _reopened(path: str, device: str, options: dict[str, Any], record: str) -> Predictor:
    predictor = Predictor(path, device, **options)
    if _identity(predictor.info) != record:
        predictor.close()
        raise ArtifactError(f"{path}: it is another file than the one whose predictor was pickled; make it anew")
    return predictor
