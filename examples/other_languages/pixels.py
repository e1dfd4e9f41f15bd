"""Logits of pictures by a file of `rest-export --input pixels`; needs Pillow and ONNX Runtime, not rest_deploy.

    python pixels.py FILE.onnx PICTURE...

The file resizes and normalises. What is left: RGB, 8 bits, upright; a transparent picture is taken as stored.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

file, *pictures = sys.argv[1:]
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
for path in pictures:
    with Image.open(path) as picture:
        pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))  # uint8 (height, width, 3)
    (logits,) = session.run(["logits"], {"pixels": pixels[None]})
    print(f"{path}:", *(f"{value:.9g}" for value in logits[0]))
