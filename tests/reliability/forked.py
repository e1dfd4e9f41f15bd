"""Fork after loading: python -m tests.reliability.forked ARTIFACT

A child that uses, closes, drops, or merely inherits a predictor, and one that opens its own. Prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rest_deploy import Predictor
from rest_deploy.errors import RestDeployError

_SECONDS = 60  # after which a child counts as hanging


def in_child(action: Callable[[], str]) -> str:
    """What an action gives in a forked child that then ends as Python does, with all that is torn down at the end."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        signal.alarm(_SECONDS)  # kills it, whatever it is at
        try:
            os.write(writing, action().encode())
        except RestDeployError as exc:
            os.write(writing, f"refused: {exc}".encode())
        except BaseException:
            traceback.print_exc()
            os._exit(3)
        os.close(writing)
        sys.exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return told if code == 0 else f"{told} ended with {code}"


def main(artifact: Path) -> None:
    """Try each."""
    batch = np.zeros((1, 3, 32, 32), np.float32)
    predictor = Predictor(artifact)
    before = predictor.logits(batch)

    def use() -> str:
        return str(np.array_equal(predictor.logits(batch), before))

    def close() -> str:
        predictor.close()
        return "closed"

    def drop() -> str:
        nonlocal predictor
        del predictor
        return "dropped"

    def open_own() -> str:
        with Predictor(artifact) as own:
            return str(np.array_equal(own.logits(batch), before))

    def open_with_two_threads() -> str:
        with Predictor(artifact, threads=2) as own:
            return str(np.array_equal(own.logits(batch), before))

    with contextlib.suppress(RestDeployError):  # one that could not be opened does not keep the others from being told
        Predictor(artifact.with_name("none.engine"))
    actions = (use, close, drop, open_own, open_with_two_threads)
    told = {action.__name__: in_child(action) for action in actions}
    told["inherit"] = in_child(lambda: "ended")
    told["parent"] = str(np.array_equal(predictor.logits(batch), before))
    print(json.dumps(told))
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
