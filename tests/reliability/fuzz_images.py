"""Classify damaged images by the thousand: python -m tests.reliability.fuzz_images FOLDER ARTIFACT COUNT

Runs in a process of its own, with a limit on its memory, so that a crash, a hang and a leak are told apart. Prints one
line of JSON.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rest_deploy import Predictor
from rest_deploy.errors import ImageError
from rest_deploy.runtimes.registry import read_info
from rest_deploy.specs import ImageSize, Preprocessing
from tests.reliability.corpus import Sample, bombs, damaged, samples, truncated
from tests.reliability.forged_graphs import with_record
from tests.reliability.process import open_files, resident, threads

#: Of address space; the largest image that is read takes 1 GiB, and what is loaded takes the rest.
_MEMORY = 6 << 30
_SECONDS = 60  # after which an image counts as hanging; the slowest takes a second
_PARTS = 10  # after each of which it is looked what the process holds
_SEED = 20210528


class Classifier:
    """Classifies files and counts what happens."""

    def __init__(self, folder: Path, artifact: Path) -> None:
        self.found: Counter[str] = Counter()
        self.bad: list[str] = []
        small = replace(read_info(artifact), preprocessing=Preprocessing(size=ImageSize(32, 32)))
        own = folder / "small.onnx"  # at their own size large images would grow the runtime's memory
        self._predictor = Predictor(with_record(artifact, own, small), threads=1)
        self._path = folder / "image"

    def try_all(self, files: Iterable[Sample]) -> None:
        """Classify each: an answer, or an ImageError of one line that names the file."""
        for sample in files:
            self._path.write_bytes(sample.content)
            signal.alarm(_SECONDS)
            (self._path.with_name("now")).write_text(sample.name)
            try:
                answer: Any = self._predictor.classify(self._path, top_k=1)
                outcome = "answered" if 0 <= answer[0].score <= 1 else "no answer"
            except ImageError as exc:
                outcome = "refused" if str(self._path) in str(exc) else f"unnamed: {exc}"
            except BaseException as exc:
                outcome = f"{type(exc).__name__}: {exc}"
            signal.alarm(0)
            self.found[outcome if outcome in ("answered", "refused") else "bad"] += 1
            if outcome not in ("answered", "refused"):
                self.bad.append(f"{sample.name}: {outcome}")


def main(folder: Path, artifact: Path, count: int) -> None:
    """Whole files, cut files, bombs, and so many damaged ones."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    # An alarm, and not faulthandler's watch: that one is a thread, and may still be ending when threads are counted.
    faulthandler.register(signal.SIGALRM, chain=True)  # says where it hangs, and then ends as the signal does
    classifier = Classifier(folder, artifact)
    whole = samples()
    told: dict[str, Any] = {"samples": len(whole)}
    classifier.try_all(whole)
    told["whole"] = dict(classifier.found)
    classifier.try_all(cut for sample in whole for cut in truncated(sample))
    told["cut"] = dict(classifier.found - Counter(told["whole"]))
    before = Counter(classifier.found)
    classifier.try_all(bombs())
    told["bombs"] = dict(classifier.found - before)
    before = Counter(classifier.found)
    generator = random.Random(_SEED)
    small = [sample for sample in whole if len(sample.content) < 50_000]
    fuzzed = [generator.choice(small) for _ in range(count)]
    part = count // _PARTS
    held = []
    for start in range(0, count, part):
        classifier.try_all(damaged(sample, generator) for sample in fuzzed[start : start + part])
        held.append((resident(), open_files(), threads()))
    told["fuzzed"] = dict(classifier.found - before)
    told["held"] = held
    told["bad"] = classifier.bad
    print(json.dumps(told))


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
