"""What PyTorch's own check of a pickle lets through: no code, but any amount of memory for a few bytes."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO

from rest_deploy.errors import CheckpointError, one_line

_PICKLES = 5  # one after the other in a file, in the format from before PyTorch 1.6
_SAVE = "save the bare weights: torch.save(model.state_dict(), PATH)"


def check_pickle(path: Path) -> None:
    """Look at a ``.pth`` or ``.pt`` file without unpickling it.

    What is no pickle at all passes: PyTorch says better what it is.

    Raises:
        CheckpointError: It unfolds to more than its size, or makes objects of a size alone.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _refuse_compressed(path, archive)
                names = [name for name in archive.namelist() if name.endswith("data.pkl")]
                made = {maker for name in names for maker in _makers(archive.open(name), pickles=1)}
        else:
            with path.open("rb") as file:
                made = _makers(file, _PICKLES)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as exc:
        raise CheckpointError(f"{path}: damaged or no PyTorch checkpoint ({one_line(exc)})") from exc
    bad = sorted(name for name in made if name == "bytearray" or (name.endswith("Tensor") and name != "Tensor"))
    if bad:
        raise CheckpointError(f"{path}: refused, as it makes a {bad[0]}, which no state dict has; {_SAVE}")


def _refuse_compressed(path: Path, archive: zipfile.ZipFile) -> None:
    """torch.save stores what it puts into an archive as it is."""
    unfolded, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if unfolded > size:
        raise CheckpointError(
            f"{path}: {size:,} bytes that unfold to {unfolded:,}, where torch.save compresses nothing; {_SAVE}"
        )


def _makers(file: IO[bytes], pickles: int) -> set[str]:
    """Names of the functions and classes that a row of pickles wants to call, up to where it is no pickle any more."""
    made: set[str] = set()
    try:
        for _ in range(pickles):
            for code, argument, _ in pickletools.genops(file):
                if code.name == "GLOBAL":
                    made.add(str(argument).split()[-1])
    except Exception:  # as varied as the damage; what it made before counts
        return made
    return made
