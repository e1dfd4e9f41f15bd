"""The commands as users start them: each in a process of its own, with the standard streams and signals of choice."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import IMAGES, ROOT

#: What an installed script does, and before it whatever a test needs to be so.
START = "import sys\nfrom rest_deploy.cli import process\n{before}\nsys.exit(process.rest_{name}())"
PICTURE = IMAGES / "rocket.jpg"
OPEN, CLOSED, FULL = "open", "closed", "full"


@dataclass(frozen=True)
class Streams:
    """What a command is started with, each ``OPEN`` or ``CLOSED``; the two that are written may be ``FULL``."""

    stdin: str = OPEN
    stdout: str = OPEN
    stderr: str = OPEN

    def __str__(self) -> str:
        named = {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr}
        return ", ".join(f"{name} {state}" for name, state in named.items() if state != OPEN) or "all open"

    @property
    def redirections(self) -> str:
        """As a shell has them."""
        how = {OPEN: "", CLOSED: "{}&-", FULL: "{}/dev/full"}
        signs = {"0<": self.stdin, "1>": self.stdout, "2>": self.stderr}
        return " ".join(how[state].format(sign) for sign, state in signs.items() if state != OPEN)


#: The eight subsets of closed streams, the worst first, and those in which one is on /dev/full.
SUBSETS = (
    Streams(CLOSED, CLOSED, CLOSED),
    Streams(stdout=FULL),
    Streams(stderr=CLOSED),
    Streams(stdout=CLOSED),
    Streams(stdout=FULL, stderr=FULL),
    Streams(stdout=CLOSED, stderr=CLOSED),
    Streams(stdin=CLOSED),
    Streams(CLOSED, OPEN, CLOSED),
    Streams(CLOSED, CLOSED, OPEN),
    Streams(stdout=CLOSED, stderr=FULL),
    Streams(stdout=FULL, stderr=CLOSED),
    Streams(stderr=FULL),
    Streams(),
)


@dataclass(frozen=True)
class Ended:
    """Exit code, that of a signal negative, and what came out of the streams that were open."""

    code: int
    out: str
    err: str


def run(
    name: str,
    *argv: object,
    streams: Streams = Streams(),
    before: str = "",
    folder: Path | None = None,
    deleted: bool = False,
    encoding: str = "utf-8",
    **environment: str,
) -> Ended:
    """Run a command.

    Args:
        name: Without ``rest-``.
        argv: Its arguments.
        streams: What it is started with.
        before: Python that its process runs first.
        folder: It is started in.
        deleted: Whether that folder is gone by then.
        encoding: Of what it prints.
        environment: Variables, over those of this process.
    """
    shell = f'{"rmdir ../here; " * deleted}exec "$@" {streams.redirections}'
    words = ["sh", "-c", shell, "sh", sys.executable, "-c", START.format(before=before, name=name), *map(str, argv)]
    # an empty entry would be the current folder, without which Python itself does not start
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        words, capture_output=True, check=False, cwd=folder, env={**os.environ, **threads, **environment}
    )
    return Ended(done.returncode, *(text.decode(encoding, "replace") for text in (done.stdout, done.stderr)))
