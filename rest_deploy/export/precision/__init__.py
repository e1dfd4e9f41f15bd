"""FP32 ONNX graph -> the same network in FP16 or INT8, part by part as a plan says."""
