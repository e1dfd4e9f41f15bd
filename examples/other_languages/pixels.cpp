// Logits of pictures by a file of `rest-export --input pixels`: pixels FILE.onnx PICTURE...
// Needs ONNX Runtime and stb_image, which only decodes. The file resizes and normalises. What is left: RGB, 8 bits,
// upright, which stb_image does not do; a transparent picture is taken as stored.
//
//     g++ -std=c++17 -O2 pixels.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o pixels

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>

#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

int main(int argc, char** argv) try {
  if (argc < 2) throw std::runtime_error("needed: FILE.onnx PICTURE...");
  Ort::Env env;
  Ort::Session session(env, argv[1], Ort::SessionOptions{});
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const char *in[] = {"pixels"}, *out[] = {"logits"};
  for (int i = 2; i < argc; i++) {
    int width, height, channels;
    std::unique_ptr<uint8_t, void (*)(void*)> pixels(stbi_load(argv[i], &width, &height, &channels, 3), stbi_image_free);
    if (!pixels) throw std::runtime_error(stbi_failure_reason());
    int64_t shape[] = {1, height, width, 3};
    auto tensor = Ort::Value::CreateTensor<uint8_t>(memory, pixels.get(), size_t(height) * width * 3, shape, 4);
    auto result = session.Run(Ort::RunOptions{nullptr}, in, &tensor, 1, out, 1);
    std::printf("%s:", argv[i]);
    for (size_t k = 0; k < result[0].GetTensorTypeAndShapeInfo().GetElementCount(); k++)
      std::printf(" %.9g", result[0].GetTensorData<float>()[k]);
    std::printf("\n");
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
