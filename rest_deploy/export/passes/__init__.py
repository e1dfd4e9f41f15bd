"""Steps on ONNX graphs: each a model in, a model out, its conditions checked."""
