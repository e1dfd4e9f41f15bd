// Classify pictures with an exported .onnx file: java -cp onnxruntime.jar:gson.jar Classify.java FILE.onnx [PICTURE...]
// The test vector is checked first; exit code 1 where it fails. ImageIO does not turn pictures as EXIF says: do that.

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.awt.image.BufferedImage;
import java.awt.image.IndexColorModel;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Base64;
import java.util.Comparator;
import java.util.Map;
import java.util.stream.IntStream;
import javax.imageio.ImageIO;

public class Classify {
    /** 8-bit RGB, row by row. */
    record Picture(byte[] data, int width, int height) {}

    record Input(float[] data, long[] shape) {}

    /** The first pixel that a new one is made of, and the weights from it on in units of 2^-22. */
    record Weights(int first, int[] values) {}

    // ---- 1. RGB

    static Picture toRgb(BufferedImage image, boolean overWhite) {
        int width = image.getWidth(), height = image.getHeight(), bands = image.getRaster().getNumBands();
        boolean grey = bands <= 2 && !(image.getColorModel() instanceof IndexColorModel);
        byte[] out = new byte[width * height * 3];
        for (int y = 0, o = 0; y < height; y++)
            for (int x = 0; x < width; x++) {
                int argb = image.getRGB(x, y), alpha = overWhite ? argb >>> 24 : 255;
                for (int shift = 16; shift >= 0; shift -= 8) {
                    // getRGB would take grey for linear light and make it brighter
                    int value = grey ? image.getRaster().getSample(x, y, 0) : argb >> shift & 255;
                    if (grey && image.getSampleModel().getSampleSize(0) == 16) value = (value * 255 + 32767) / 65535;
                    out[o++] = (byte) Math.round((value * alpha + 255 * (255 - alpha)) / 255.0);
                }
            }
        return new Picture(out, width, height);
    }

    // ---- 2. Resize, exactly as Pillow does

    static double sinc(double x) {
        return x == 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
    }

    static int reach(String filter) {
        return switch (filter) { case "bilinear" -> 1; case "bicubic" -> 2; default -> 3; };
    }

    static double value(String filter, double x) {
        return switch (filter) {
            case "bilinear" -> x < 1 ? 1 - x : 0;
            case "bicubic" -> x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
            case "lanczos" -> x < 3 ? sinc(x) * sinc(x / 3) : 0;
            default -> throw new IllegalArgumentException("interpolation " + filter);
        };
    }

    static Weights[] weights(String filter, int from, int to, float begin, float end) {
        double scale = (double) (end - begin) / to, stretch = Math.max(scale, 1);
        Weights[] all = new Weights[to];
        for (int i = 0; i < to; i++) {
            double centre = begin + (i + 0.5) * scale;
            int first = Math.max((int) (centre - reach(filter) * stretch + 0.5), 0);
            int last = Math.min((int) (centre + reach(filter) * stretch + 0.5), from);
            double[] weights = new double[last - first];
            double sum = 0;
            for (int k = 0; k < weights.length; k++)
                sum += weights[k] = value(filter, Math.abs((first + k - centre + 0.5) * (1 / stretch)));
            int[] whole = new int[weights.length];
            for (int k = 0; k < weights.length; k++)
                whole[k] = (int) (weights[k] / sum * (1 << 22) + (weights[k] < 0 ? -0.5 : 0.5));
            all[i] = new Weights(first, whole);
        }
        return all;
    }

    /** One pass: pixels lie `step` bytes apart along it, and there are `rows` of them `stride` bytes apart. */
    static void pass(byte[] in, byte[] out, Weights[] all, int rows, int step, int inStride, int outStride) {
        for (int row = 0; row < rows; row++)
            for (int i = 0; i < all.length; i++)
                for (int c = 0; c < 3; c++) {
                    int sum = 1 << 21;
                    for (int k = 0; k < all[i].values.length; k++)
                        sum += (in[row * inStride + (all[i].first + k) * step + c] & 255) * all[i].values[k];
                    out[row * outStride + i * step + c] = (byte) Math.min(Math.max(sum >> 22, 0), 255);
                }
    }

    static Picture across(Picture in, int width, String filter, float left, float right) {
        byte[] out = new byte[width * in.height * 3];
        pass(in.data, out, weights(filter, in.width, width, left, right), in.height, 3, in.width * 3, width * 3);
        return new Picture(out, width, in.height);
    }

    static Picture down(Picture in, int height, String filter, float top, float bottom) {
        byte[] out = new byte[in.width * height * 3];
        pass(in.data, out, weights(filter, in.height, height, top, bottom), in.width, in.width * 3, 3, 3);
        return new Picture(out, in.width, height);
    }

    static int[] places(int from, int to, float begin, float end) {
        int[] result = new int[to];
        double scale = (double) (end - begin) / to, at = begin + scale * 0.5;
        for (int i = 0; i < to; i++, at += scale) result[i] = Math.min((int) at, from - 1);
        return result;
    }

    static Picture resize(Picture in, int width, int height, String filter, double... box) {
        float left = (float) box[0], top = (float) box[1], right = (float) box[2], bottom = (float) box[3];
        if (filter.equals("nearest")) {
            int[] xs = places(in.width, width, left, right), ys = places(in.height, height, top, bottom);
            byte[] out = new byte[width * height * 3];
            for (int y = 0, o = 0; y < height; y++)
                for (int x = 0; x < width; x++)
                    for (int c = 0; c < 3; c++) out[o++] = in.data[(ys[y] * in.width + xs[x]) * 3 + c];
            return new Picture(out, width, height);
        }
        if (in.height - height > 2 * Math.max(in.width - width, 0)) // Pillow 13; before it, never
            return across(down(in, height, filter, top, bottom), width, filter, left, right);
        return down(across(in, width, filter, left, right), height, filter, top, bottom);
    }

    static Picture toSize(Picture in, JsonObject steps) {
        if (steps.get("resize").getAsString().equals("native")) return in;
        String filter = steps.get("interpolation").getAsString();
        JsonArray size = steps.getAsJsonArray("size");
        int height = size.get(0).getAsInt(), width = size.get(1).getAsInt();
        if (steps.get("resize").getAsString().equals("warp"))
            return resize(in, width, height, filter, 0, 0, in.width, in.height);
        int side = (int) (Math.max(height, width) / steps.get("crop_ratio").getAsDouble());
        boolean tall = in.width <= in.height;
        int w = tall ? side : (int) ((double) side * in.width / in.height);
        int h = tall ? (int) ((double) side * in.height / in.width) : side;
        int left = (int) Math.rint((w - width) / 2.0), top = (int) Math.rint((h - height) / 2.0); // halves to even
        if (Math.max(w, h) > 8 * side) { // very long pictures: only the part that is cut out is resized
            double x = (double) in.width / w, y = (double) in.height / h;
            return resize(in, width, height, filter, left * x, top * y, (left + width) * x, (top + height) * y);
        }
        Picture whole = resize(in, w, h, filter, 0, 0, in.width, in.height);
        byte[] out = new byte[width * height * 3];
        for (int y = 0; y < height; y++)
            System.arraycopy(whole.data, ((top + y) * w + left) * 3, out, y * width * 3, width * 3);
        return new Picture(out, width, height);
    }

    // ---- 3. and 4. Numbers

    static Input toInput(BufferedImage image, JsonObject steps) {
        Picture picture = toSize(toRgb(image, steps.get("alpha").getAsString().equals("white")), steps);
        JsonArray mean = steps.getAsJsonArray("mean"), std = steps.getAsJsonArray("std");
        int channels = mean.size(), area = picture.width * picture.height;
        float[] out = new float[channels * area];
        for (int i = 0; i < area; i++) {
            int r = picture.data[i * 3] & 255, g = picture.data[i * 3 + 1] & 255, b = picture.data[i * 3 + 2] & 255;
            int[] values = channels == 3 ? new int[] {r, g, b} : new int[] {r * 19595 + g * 38470 + b * 7471 + 32768 >> 16};
            for (int c = 0; c < channels; c++)
                out[c * area + i] = (float) ((values[c] / 255.0 - mean.get(c).getAsDouble()) / std.get(c).getAsDouble());
        }
        return new Input(out, new long[] {1, channels, picture.height, picture.width});
    }

    // ---- 5. The network

    static float[] logits(OrtEnvironment env, OrtSession session, JsonObject record, Input input) throws OrtException {
        String name = record.getAsJsonObject("input").get("name").getAsString();
        try (OnnxTensor tensor = OnnxTensor.createTensor(env, FloatBuffer.wrap(input.data), input.shape);
                OrtSession.Result result = session.run(Map.of(name, tensor))) {
            return ((float[][]) result.get(0).getValue())[0];
        }
    }

    static void check(OrtEnvironment env, OrtSession session, JsonObject record) throws OrtException, IOException {
        JsonObject vector = record.getAsJsonObject("test_vector");
        if (vector == null) {
            System.out.println("test vector: none (exported with --no-verify)");
            return;
        }
        JsonObject told = vector.getAsJsonObject("input");
        long[] shape = told.getAsJsonArray("shape").asList().stream().mapToLong(n -> n.getAsLong()).toArray();
        Input input;
        if (vector.has("picture")) {
            byte[] png = Base64.getDecoder().decode(vector.get("picture").getAsString());
            input = toInput(ImageIO.read(new ByteArrayInputStream(png)), record.getAsJsonObject("preprocessing"));
            if (!Arrays.equals(input.shape, shape))
                throw new IllegalStateException("an input of " + Arrays.toString(input.shape) + ", needed: " + told.get("shape"));
            double off = 0, allowed = told.get("tolerance").getAsDouble();
            for (var sample : told.getAsJsonArray("samples")) {
                int place = sample.getAsJsonArray().get(0).getAsInt();
                off = Math.max(off, Math.abs(input.data[place] - sample.getAsJsonArray().get(1).getAsDouble()));
            }
            System.out.printf("test vector: input is off by %.1e, allowed %.1e%n", off, allowed);
            if (!(off <= allowed)) throw new IllegalStateException("another input than it was");
        } else {
            ByteBuffer values = ByteBuffer.wrap(Base64.getDecoder().decode(told.get("values").getAsString()));
            float[] data = new float[values.remaining() / 4];
            values.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(data);
            input = new Input(data, shape);
        }
        if (vector.get("logits").isJsonNull()) return;
        JsonArray values = vector.getAsJsonObject("logits").getAsJsonArray("values");
        float[] logits = logits(env, session, record, input);
        double off = 0, allowed = vector.getAsJsonObject("logits").get("tolerance").getAsDouble();
        for (int i = 0; i < logits.length; i++) off = Math.max(off, Math.abs(logits[i] - values.get(i).getAsDouble()));
        System.out.printf("test vector: logits are off by %.1e, allowed %.1e%n", off, allowed);
        if (!(off <= allowed)) throw new IllegalStateException("other logits than they were");
    }

    static double[] scores(float[] logits, String activation) {
        double[] scores = IntStream.range(0, logits.length).mapToDouble(i -> logits[i]).toArray();
        if (activation.equals("none")) return scores;
        if (activation.equals("sigmoid")) return Arrays.stream(scores).map(v -> 1 / (1 + Math.exp(-v))).toArray();
        double most = Arrays.stream(scores).max().getAsDouble();
        double sum = Arrays.stream(scores).map(v -> Math.exp(v - most)).sum();
        return Arrays.stream(scores).map(v -> Math.exp(v - most) / sum).toArray();
    }

    public static void main(String[] args) throws OrtException, IOException {
        OrtEnvironment env = OrtEnvironment.getEnvironment();
        try (OrtSession session = env.createSession(args[0])) {
            String json = session.getMetadata().getCustomMetadataValue("rest_deploy").orElseThrow();
            JsonObject record = JsonParser.parseString(json).getAsJsonObject();
            check(env, session, record);
            for (String path : Arrays.copyOfRange(args, 1, args.length)) {
                BufferedImage image = ImageIO.read(new File(path));
                if (image == null) throw new IOException(path + ": not an image that ImageIO can read");
                float[] logits = logits(env, session, record, toInput(image, record.getAsJsonObject("preprocessing")));
                double[] scores = scores(logits, record.get("activation").getAsString());
                Comparator<Integer> best = Comparator.comparingDouble(i -> -scores[i]);
                IntStream.range(0, scores.length).boxed().sorted(best).limit(5).forEach(i -> {
                    var labels = record.get("labels");
                    String label = labels.isJsonNull() ? "" + i : labels.getAsJsonArray().get(i).getAsString();
                    System.out.printf("%s: %.4f %s%n", path, scores[i], label);
                });
            }
        }
    }
}
