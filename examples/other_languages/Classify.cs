// Classify pictures with an exported .onnx file: dotnet run -- FILE.onnx [PICTURE...]
// Needs the packages Microsoft.ML.OnnxRuntime and SixLabors.ImageSharp, which only decodes.
// The test vector is checked first; exit code 1 where it fails.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.Json;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using SixLabors.ImageSharp;
using SixLabors.ImageSharp.PixelFormats;
using SixLabors.ImageSharp.Processing;

/// <summary>8-bit RGB, row by row.</summary>
public record Picture(byte[] Data, int Width, int Height);

public record Input(float[] Data, int[] Shape);

/// <summary>The first pixel that a new one is made of, and the weights from it on in units of 2^-22.</summary>
public record Weights(int First, int[] Values);

public static class Classify
{
    // ---- 1. RGB

    static Picture Decode(byte[] file, bool overWhite)
    {
        using var image = Image.Load<Rgba32>(file);
        image.Mutate(x => x.AutoOrient()); // as EXIF says
        var pixels = new byte[image.Width * image.Height * 4];
        image.CopyPixelDataTo(pixels);
        var rgb = new byte[image.Width * image.Height * 3];
        for (int i = 0; i < image.Width * image.Height; i++)
        {
            int alpha = overWhite ? pixels[i * 4 + 3] : 255;
            for (int c = 0; c < 3; c++)
                rgb[i * 3 + c] = (byte)Math.Round((pixels[i * 4 + c] * alpha + 255 * (255 - alpha)) / 255.0);
        }
        return new Picture(rgb, image.Width, image.Height);
    }

    // ---- 2. Resize, exactly as Pillow does

    static double Sinc(double x) => x == 0 ? 1 : Math.Sin(x * Math.PI) / (x * Math.PI);

    static int Reach(string filter) => filter switch { "bilinear" => 1, "bicubic" => 2, _ => 3 };

    static double Value(string filter, double x) => filter switch
    {
        "bilinear" => x < 1 ? 1 - x : 0,
        "bicubic" => x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0,
        "lanczos" => x < 3 ? Sinc(x) * Sinc(x / 3) : 0,
        _ => throw new ArgumentException("interpolation " + filter),
    };

    static Weights[] WeightsOf(string filter, int from, int to, float begin, float end)
    {
        double scale = (double)(float)(end - begin) / to, stretch = Math.Max(scale, 1);
        var all = new Weights[to];
        for (int i = 0; i < to; i++)
        {
            double centre = begin + (i + 0.5) * scale;
            int first = Math.Max((int)(centre - Reach(filter) * stretch + 0.5), 0);
            int last = Math.Min((int)(centre + Reach(filter) * stretch + 0.5), from);
            var weights = new double[last - first];
            for (int k = 0; k < weights.Length; k++)
                weights[k] = Value(filter, Math.Abs((first + k - centre + 0.5) * (1 / stretch)));
            double sum = weights.Sum();
            all[i] = new Weights(first, weights.Select(w => (int)(w / sum * (1 << 22) + (w < 0 ? -0.5 : 0.5))).ToArray());
        }
        return all;
    }

    /// <summary>One pass: pixels lie step bytes apart along it, and there are rows of them, a stride apart.</summary>
    static void Pass(byte[] input, byte[] output, Weights[] all, int rows, int step, int inStride, int outStride)
    {
        for (int row = 0; row < rows; row++)
            for (int i = 0; i < all.Length; i++)
                for (int c = 0; c < 3; c++)
                {
                    int sum = 1 << 21;
                    for (int k = 0; k < all[i].Values.Length; k++)
                        sum += input[row * inStride + (all[i].First + k) * step + c] * all[i].Values[k];
                    output[row * outStride + i * step + c] = (byte)Math.Clamp(sum >> 22, 0, 255);
                }
    }

    static Picture Across(Picture input, int width, string filter, float left, float right)
    {
        var output = new byte[width * input.Height * 3];
        var weights = WeightsOf(filter, input.Width, width, left, right);
        Pass(input.Data, output, weights, input.Height, 3, input.Width * 3, width * 3);
        return new Picture(output, width, input.Height);
    }

    static Picture Down(Picture input, int height, string filter, float top, float bottom)
    {
        var output = new byte[input.Width * height * 3];
        var weights = WeightsOf(filter, input.Height, height, top, bottom);
        Pass(input.Data, output, weights, input.Width, input.Width * 3, 3, 3);
        return new Picture(output, input.Width, height);
    }

    static int[] Places(int from, int to, float begin, float end)
    {
        var result = new int[to];
        double scale = (double)(float)(end - begin) / to, at = begin + scale * 0.5;
        for (int i = 0; i < to; i++, at += scale) result[i] = Math.Min((int)at, from - 1);
        return result;
    }

    static Picture Resize(Picture input, int width, int height, string filter, double left, double top, double right, double bottom)
    {
        float l = (float)left, t = (float)top, r = (float)right, b = (float)bottom;
        if (filter == "nearest")
        {
            var output = new byte[width * height * 3];
            int[] xs = Places(input.Width, width, l, r), ys = Places(input.Height, height, t, b);
            for (int y = 0, o = 0; y < height; y++)
                for (int x = 0; x < width; x++)
                    for (int c = 0; c < 3; c++) output[o++] = input.Data[(ys[y] * input.Width + xs[x]) * 3 + c];
            return new Picture(output, width, height);
        }
        if (input.Height - height > 2 * Math.Max(input.Width - width, 0)) // Pillow 13; before it, never
            return Across(Down(input, height, filter, t, b), width, filter, l, r);
        return Down(Across(input, width, filter, l, r), height, filter, t, b);
    }

    static Picture ToSize(Picture input, JsonElement steps)
    {
        string resize = steps.GetProperty("resize").GetString(), filter = steps.GetProperty("interpolation").GetString();
        if (resize == "native") return input;
        int height = steps.GetProperty("size")[0].GetInt32(), width = steps.GetProperty("size")[1].GetInt32();
        if (resize == "warp") return Resize(input, width, height, filter, 0, 0, input.Width, input.Height);
        int side = (int)(Math.Max(height, width) / steps.GetProperty("crop_ratio").GetDouble());
        bool tall = input.Width <= input.Height;
        int w = tall ? side : (int)((double)side * input.Width / input.Height);
        int h = tall ? (int)((double)side * input.Height / input.Width) : side;
        int left = (int)Math.Round((w - width) / 2.0), top = (int)Math.Round((h - height) / 2.0); // halves to even
        if (Math.Max(w, h) > 8 * side) // very long pictures: only the part that is cut out is resized
        {
            double x = (double)input.Width / w, y = (double)input.Height / h;
            return Resize(input, width, height, filter, left * x, top * y, (left + width) * x, (top + height) * y);
        }
        Picture whole = Resize(input, w, h, filter, 0, 0, input.Width, input.Height);
        var output = new byte[width * height * 3];
        for (int y = 0; y < height; y++)
            Array.Copy(whole.Data, ((top + y) * w + left) * 3, output, y * width * 3, width * 3);
        return new Picture(output, width, height);
    }

    // ---- 3. and 4. Numbers

    static Input ToInput(byte[] file, JsonElement steps)
    {
        Picture picture = ToSize(Decode(file, steps.GetProperty("alpha").GetString() == "white"), steps);
        double[] mean = steps.GetProperty("mean").EnumerateArray().Select(v => v.GetDouble()).ToArray();
        double[] std = steps.GetProperty("std").EnumerateArray().Select(v => v.GetDouble()).ToArray();
        int channels = mean.Length, area = picture.Width * picture.Height;
        var output = new float[channels * area];
        for (int i = 0; i < area; i++)
        {
            int r = picture.Data[i * 3], g = picture.Data[i * 3 + 1], b = picture.Data[i * 3 + 2];
            int grey = (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16;
            for (int c = 0; c < channels; c++)
            {
                int value = channels == 3 ? picture.Data[i * 3 + c] : grey;
                output[c * area + i] = (float)((value / 255.0 - mean[c]) / std[c]);
            }
        }
        return new Input(output, new[] { 1, channels, picture.Height, picture.Width });
    }

    // ---- 5. The network

    static float[] Logits(InferenceSession session, JsonElement record, Input input)
    {
        string name = record.GetProperty("input").GetProperty("name").GetString();
        var tensor = new DenseTensor<float>(input.Data, input.Shape);
        using var results = session.Run(new[] { NamedOnnxValue.CreateFromTensor(name, tensor) });
        return results.First().AsEnumerable<float>().ToArray();
    }

    static void Check(InferenceSession session, JsonElement record)
    {
        if (!record.TryGetProperty("test_vector", out JsonElement vector))
        {
            Console.WriteLine("test vector: none (exported with --no-verify)");
            return;
        }
        JsonElement told = vector.GetProperty("input");
        int[] shape = told.GetProperty("shape").EnumerateArray().Select(v => v.GetInt32()).ToArray();
        Input input;
        if (vector.TryGetProperty("picture", out JsonElement picture))
        {
            input = ToInput(picture.GetBytesFromBase64(), record.GetProperty("preprocessing"));
            if (!input.Shape.SequenceEqual(shape)) throw new InvalidDataException("an input of another shape than it was");
            double off = told.GetProperty("samples").EnumerateArray()
                .Max(sample => Math.Abs(input.Data[sample[0].GetInt32()] - sample[1].GetDouble()));
            double allowed = told.GetProperty("tolerance").GetDouble();
            Console.WriteLine($"test vector: input is off by {off:E1}, allowed {allowed:E1}");
            if (!(off <= allowed)) throw new InvalidDataException("another input than it was");
        }
        else
        {
            byte[] values = told.GetProperty("values").GetBytesFromBase64();
            var data = new float[values.Length / 4];
            Buffer.BlockCopy(values, 0, data, 0, values.Length); // little-endian, as the processor is
            input = new Input(data, shape);
        }
        JsonElement expected = vector.GetProperty("logits");
        if (expected.ValueKind == JsonValueKind.Null) return;
        float[] logits = Logits(session, record, input);
        double[] wanted = expected.GetProperty("values").EnumerateArray().Select(v => v.GetDouble()).ToArray();
        double difference = logits.Zip(wanted, (a, b) => Math.Abs(a - b)).Max(), tolerance = expected.GetProperty("tolerance").GetDouble();
        Console.WriteLine($"test vector: logits are off by {difference:E1}, allowed {tolerance:E1}");
        if (!(difference <= tolerance)) throw new InvalidDataException("other logits than they were");
    }

    static double[] Scores(float[] logits, string activation)
    {
        double most = logits.Max(), sum = logits.Sum(v => Math.Exp(v - most));
        return activation switch
        {
            "softmax" => logits.Select(v => Math.Exp(v - most) / sum).ToArray(),
            "sigmoid" => logits.Select(v => 1 / (1 + Math.Exp(-v))).ToArray(),
            _ => logits.Select(v => (double)v).ToArray(),
        };
    }

    public static void Main(string[] args)
    {
        using var session = new InferenceSession(args[0]);
        using var json = JsonDocument.Parse(session.ModelMetadata.CustomMetadataMap["rest_deploy"]);
        JsonElement record = json.RootElement, labels = record.GetProperty("labels");
        Check(session, record);
        foreach (string path in args.Skip(1))
        {
            Input input = ToInput(File.ReadAllBytes(path), record.GetProperty("preprocessing"));
            double[] scores = Scores(Logits(session, record, input), record.GetProperty("activation").GetString());
            foreach (int i in Enumerable.Range(0, scores.Length).OrderByDescending(i => scores[i]).Take(5))
            {
                string label = labels.ValueKind == JsonValueKind.Null ? i.ToString() : labels[i].GetString();
                Console.WriteLine($"{path}: {scores[i]:F4} {label}");
            }
        }
    }
}
