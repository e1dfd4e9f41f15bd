// Classify pictures with an exported .onnx file: classify FILE.onnx [PICTURE...]
// Needs ONNX Runtime, nlohmann/json and stb_image. The test vector is checked first; exit code 1 where it fails.
// stb_image does not turn pictures as EXIF says: do that.
//
//     g++ -std=c++17 -O2 classify.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o classify

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

using Bytes = std::vector<unsigned char>;
using Json = nlohmann::json;

struct Picture {  // 8-bit RGB, row by row
  Bytes data;
  int width, height;
};

struct Input {
  std::vector<float> data;
  std::array<int64_t, 4> shape;
};

// ---- 1. RGB

Picture decode(const Bytes& file, bool over_white) {
  int width, height, channels;
  unsigned char* pixels = stbi_load_from_memory(file.data(), int(file.size()), &width, &height, &channels, 4);
  if (!pixels) throw std::runtime_error(stbi_failure_reason());
  Bytes rgb(size_t(width) * height * 3);
  for (size_t i = 0; i < size_t(width) * height; i++) {
    int alpha = over_white ? pixels[i * 4 + 3] : 255;
    for (int c = 0; c < 3; c++)
      rgb[i * 3 + c] = std::lround((pixels[i * 4 + c] * alpha + 255 * (255 - alpha)) / 255.0);
  }
  stbi_image_free(pixels);
  return {rgb, width, height};
}

// ---- 2. Resize, exactly as Pillow does

double sinc(double x) {
  const double pi = 3.14159265358979323846;
  return x == 0 ? 1 : std::sin(x * pi) / (x * pi);
}

struct Filter {
  int reach;
  double (*value)(double);
};

Filter filter_of(const std::string& name) {
  if (name == "bilinear") return {1, [](double x) { return x < 1 ? 1 - x : 0; }};
  if (name == "bicubic")
    return {2, [](double x) {
              return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
            }};
  if (name == "lanczos") return {3, [](double x) { return x < 3 ? sinc(x) * sinc(x / 3) : 0; }};
  throw std::runtime_error("interpolation " + name);
}

struct Weights {  // the first pixel that a new one is made of, and the weights from it on in units of 2^-22
  int first;
  std::vector<int> values;
};

std::vector<Weights> weights_of(Filter filter, int from, int to, float begin, float end) {
  double scale = double(end - begin) / to, stretch = std::max(scale, 1.0);
  std::vector<Weights> all;
  for (int i = 0; i < to; i++) {
    double centre = begin + (i + 0.5) * scale;
    int first = std::max(int(centre - filter.reach * stretch + 0.5), 0);
    int last = std::min(int(centre + filter.reach * stretch + 0.5), from);
    std::vector<double> weights;
    for (int x = first; x < last; x++) weights.push_back(filter.value(std::abs((x - centre + 0.5) * (1 / stretch))));
    double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::vector<int> whole;
    for (double w : weights) whole.push_back(int(w / sum * (1 << 22) + (w < 0 ? -0.5 : 0.5)));
    all.push_back({first, whole});
  }
  return all;
}

// One pass: pixels lie `step` bytes apart along it, and there are `rows` of them, a stride apart.
void pass(const Bytes& in, Bytes& out, const std::vector<Weights>& all, int rows, int step, int in_stride, int out_stride) {
  for (int row = 0; row < rows; row++)
    for (size_t i = 0; i < all.size(); i++)
      for (int c = 0; c < 3; c++) {
        int sum = 1 << 21;
        for (size_t k = 0; k < all[i].values.size(); k++)
          sum += in[size_t(row) * in_stride + (all[i].first + k) * step + c] * all[i].values[k];
        out[size_t(row) * out_stride + i * step + c] = std::clamp(sum >> 22, 0, 255);
      }
}

Picture across(const Picture& in, int width, Filter filter, float left, float right) {
  Bytes out(size_t(width) * in.height * 3);
  pass(in.data, out, weights_of(filter, in.width, width, left, right), in.height, 3, in.width * 3, width * 3);
  return {out, width, in.height};
}

Picture down(const Picture& in, int height, Filter filter, float top, float bottom) {
  Bytes out(size_t(in.width) * height * 3);
  pass(in.data, out, weights_of(filter, in.height, height, top, bottom), in.width, in.width * 3, 3, 3);
  return {out, in.width, height};
}

std::vector<int> places(int from, int to, float begin, float end) {
  std::vector<int> result;
  double scale = double(end - begin) / to, at = begin + scale * 0.5;
  for (int i = 0; i < to; i++, at += scale) result.push_back(std::min(int(at), from - 1));
  return result;
}

Picture resize(const Picture& in, int width, int height, const std::string& name, float left, float top, float right, float bottom) {
  if (name == "nearest") {
    Picture out{{}, width, height};
    std::vector<int> xs = places(in.width, width, left, right);
    for (int y : places(in.height, height, top, bottom))
      for (int x : xs)
        for (int c = 0; c < 3; c++) out.data.push_back(in.data[(size_t(y) * in.width + x) * 3 + c]);
    return out;
  }
  Filter filter = filter_of(name);
  if (in.height - height > 2 * std::max(in.width - width, 0))  // Pillow 13; before it, never
    return across(down(in, height, filter, top, bottom), width, filter, left, right);
  return down(across(in, width, filter, left, right), height, filter, top, bottom);
}

int half(int n) { return n % 4 == 3 ? (n + 1) / 2 : n / 2; }  // of a number of at least 0, halves to the even one

Picture to_size(const Picture& in, const Json& steps) {
  if (steps["resize"] == "native") return in;
  std::string filter = steps["interpolation"];
  int height = steps["size"][0], width = steps["size"][1];
  if (steps["resize"] == "warp") return resize(in, width, height, filter, 0, 0, in.width, in.height);
  int side = int(std::max(height, width) / steps["crop_ratio"].get<double>());
  bool tall = in.width <= in.height;
  int w = tall ? side : int(double(side) * in.width / in.height);
  int h = tall ? int(double(side) * in.height / in.width) : side;
  int left = half(w - width), top = half(h - height);
  if (std::max(w, h) > 8 * side) {  // very long pictures: only the part that is cut out is resized
    double x = double(in.width) / w, y = double(in.height) / h;
    return resize(in, width, height, filter, left * x, top * y, (left + width) * x, (top + height) * y);
  }
  Picture whole = resize(in, w, h, filter, 0, 0, in.width, in.height), out{Bytes(size_t(width) * height * 3), width, height};
  for (int y = 0; y < height; y++)
    std::memcpy(&out.data[size_t(y) * width * 3], &whole.data[(size_t(top + y) * w + left) * 3], width * 3);
  return out;
}

// ---- 3. and 4. Numbers

Input to_input(const Bytes& file, const Json& steps) {
  Picture picture = to_size(decode(file, steps["alpha"] == "white"), steps);
  std::vector<double> mean = steps["mean"], std = steps["std"];
  size_t channels = mean.size(), area = size_t(picture.width) * picture.height;
  std::vector<float> out(channels * area);
  for (size_t i = 0; i < area; i++) {
    const unsigned char* p = &picture.data[i * 3];
    int grey = (p[0] * 19595 + p[1] * 38470 + p[2] * 7471 + 32768) >> 16;
    for (size_t c = 0; c < channels; c++)
      out[c * area + i] = float(((channels == 3 ? p[c] : grey) / 255.0 - mean[c]) / std[c]);
  }
  return {out, {1, int64_t(channels), picture.height, picture.width}};
}

// ---- 5. The network

std::vector<float> logits_of(Ort::Session& session, const Json& record, Input& input) {
  std::string in = record["input"]["name"];
  const char *in_names[] = {in.c_str()}, *out_names[] = {"logits"};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto tensor = Ort::Value::CreateTensor<float>(memory, input.data.data(), input.data.size(), input.shape.data(), 4);
  auto result = session.Run(Ort::RunOptions{nullptr}, in_names, &tensor, 1, out_names, 1);
  const float* values = result[0].GetTensorData<float>();
  return {values, values + result[0].GetTensorTypeAndShapeInfo().GetElementCount()};
}

Bytes from_base64(const std::string& text) {
  const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  Bytes out;
  uint32_t bits = 0, count = 0;
  for (char letter : text) {
    if (letter == '=') break;
    bits = bits << 6 | uint32_t(letters.find(letter));
    if ((count += 6) >= 8) out.push_back(bits >> (count -= 8) & 255);
  }
  return out;
}

void check(Ort::Session& session, const Json& record) {
  if (!record.contains("test_vector")) {
    std::puts("test vector: none (exported with --no-verify)");
    return;
  }
  const Json &vector = record["test_vector"], &told = vector["input"];
  Input input;
  if (vector.contains("picture")) {
    input = to_input(from_base64(vector["picture"]), record["preprocessing"]);
    if (told["shape"] != Json(input.shape)) throw std::runtime_error("an input of another shape than it was");
    double off = 0, allowed = told["tolerance"];
    for (const Json& sample : told["samples"])
      off = std::max(off, std::abs(input.data[sample[0].get<size_t>()] - sample[1].get<double>()));
    std::printf("test vector: input is off by %.1e, allowed %.1e\n", off, allowed);
    if (!(off <= allowed)) throw std::runtime_error("another input than it was");
  } else {
    Bytes values = from_base64(told["values"]);
    input = {std::vector<float>(values.size() / 4), told["shape"].get<std::array<int64_t, 4>>()};
    std::memcpy(input.data.data(), values.data(), values.size());
  }
  if (vector["logits"].is_null()) return;
  std::vector<float> logits = logits_of(session, record, input);
  double off = 0, allowed = vector["logits"]["tolerance"];
  for (size_t i = 0; i < logits.size(); i++)
    off = std::max(off, std::abs(logits[i] - vector["logits"]["values"][i].get<double>()));
  std::printf("test vector: logits are off by %.1e, allowed %.1e\n", off, allowed);
  if (!(off <= allowed)) throw std::runtime_error("other logits than they were");
}

std::vector<double> scores_of(const std::vector<float>& logits, const std::string& activation) {
  std::vector<double> scores(logits.begin(), logits.end());
  if (activation == "none") return scores;
  if (activation == "sigmoid") {
    for (double& v : scores) v = 1 / (1 + std::exp(-v));
    return scores;
  }
  double most = *std::max_element(scores.begin(), scores.end());
  for (double& v : scores) v = std::exp(v - most);
  double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (double& v : scores) v /= sum;
  return scores;
}

Bytes read(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  Bytes content;
  unsigned char part[65536];
  while (size_t count = std::fread(part, 1, sizeof part, file)) content.insert(content.end(), part, part + count);
  std::fclose(file);
  return content;
}

int main(int argc, char** argv) try {
  if (argc < 2) throw std::runtime_error("needed: FILE.onnx [PICTURE...]");
  Ort::Env env;
  Bytes file = read(argv[1]);
  Ort::Session session(env, file.data(), file.size(), Ort::SessionOptions{});
  Ort::AllocatorWithDefaultOptions allocator;
  auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("rest_deploy", allocator);
  if (!text) throw std::runtime_error("the file has no record of rest_deploy");
  Json record = Json::parse(text.get());
  check(session, record);
  for (int i = 2; i < argc; i++) {
    Input input = to_input(read(argv[i]), record["preprocessing"]);
    std::vector<double> scores = scores_of(logits_of(session, record, input), record["activation"]);
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    order.resize(std::min<size_t>(order.size(), 5));
    for (size_t k : order) {
      std::string label = record["labels"].is_null() ? std::to_string(k) : record["labels"][k].get<std::string>();
      std::printf("%s: %.4f %s\n", argv[i], scores[k], label.c_str());
    }
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
