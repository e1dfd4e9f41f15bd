"""The table and the plot say the same."""

from __future__ import annotations

import csv
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from rest_deploy.pipeline.sensitivities import Sensitivity, write_sensitivities
from rest_deploy.specs import Precision

ROWS = [
    Sensitivity("stage3.2.attn", math.inf, 0.0),
    Sensitivity("stem", 0.25, 0.9),
    Sensitivity("head<&>", 0.05, 1.0),
]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_rows_and_bars(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_sensitivities(path, ROWS, Precision.INT8, Precision.FP16)
    text = path.read_text(encoding="utf-8")
    if suffix == ".csv":
        rows = [(row["part"], row["rms_error"], row["top1_agreement"]) for row in csv.DictReader(text.splitlines())]
        assert rows == [("stage3.2.attn", "inf", "0"), ("stem", "0.25", "0.9"), ("head<&>", "0.05", "1")]
    else:
        values = json.loads(text)
        assert (values["precision"], values["others"]) == ("int8", "fp16")
        assert [part["error"] for part in values["parts"]] == [None, 0.25, 0.05]
    root = ET.fromstring((tmp_path / "table.svg").read_text(encoding="utf-8"))
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"stage3.2.attn", "stem", "head<&>", "0.25, top-1 90%", "no numbers, top-1 0%"} <= set(words)
    bars = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    widths = [float(bar.get("width", "0")) for bar in bars]
    assert widths[1] == pytest.approx(5 * widths[2])
    assert bars[0].get("class") == "bad"
