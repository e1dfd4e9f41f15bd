"""From an ONNX file to a TensorRT engine that has been proved to be what was asked."""
