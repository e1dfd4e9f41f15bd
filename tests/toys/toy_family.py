"""A family of toys without PyTorch: a convolution, layers that keep the size, a sum over all pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from rest_deploy.artifact.profile import InputSize
from rest_deploy.models.family import Family
from rest_deploy.specs import ImageSize, Precision, Preprocessing, Resize
from rest_deploy.values import Real, Whole, hold, read

if TYPE_CHECKING:
    from rest_deploy.models.checkpoint import LoadedWeights
    from tests.toys.toy_network import DeployToy, Toy


@dataclass(frozen=True)
class ToyConfig:
    """Hyper-parameters of a toy; what its weights do not tell is the slope."""

    width: Annotated[int, Whole(1, 1024)] = 8
    layers: Annotated[int, Whole(1, 100)] = 2
    slope: Annotated[float, Real(0, 1)] = 0.25
    num_classes: Annotated[int, Whole(1, 1 << 24)] = 5
    in_channels: Annotated[int, Whole(1, 1 << 16)] = 3

    def __post_init__(self) -> None:
        hold(self)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ToyConfig:
        return read(cls, dict(values))


class ToyFamily(Family[ToyConfig]):
    name = "toy"
    title = "Toy"
    config = ToyConfig
    variants: Mapping[str, ToyConfig] = {"toy_nano": ToyConfig(), "toy_giant": ToyConfig(width=16, layers=3)}
    anchors = ("entry.conv.weight",)
    beginnings = frozenset({"entry", "layers", "classifier"})
    head = "classifier.weight"
    channels_last = False
    operators = frozenset(
        "Add Cast Constant Conv Div Gemm Identity LeakyRelu MatMul Mul ReduceProd ReduceSum Shape Sqrt "  # noqa: SIM905
        "Transpose".split()
    )
    preprocessing = Preprocessing(Resize.WARP, ImageSize(40, 48), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

    def network(self) -> type[Toy]:
        from tests.toys.toy_network import Toy

        return Toy

    def to_deploy(self, model: Toy) -> DeployToy:
        from tests.toys.toy_network import DeployToy

        return DeployToy(model)

    def block_name(self, piece: str) -> str:
        return piece.replace("layer_", "layers.")

    def read(self, loaded: LoadedWeights, num_heads: Sequence[int] | None) -> tuple[ToyConfig, str]:
        weights = loaded.state_dict
        width, in_channels = weights["entry.conv.weight"].shape[:2]
        config = ToyConfig(
            width=width,
            layers=len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
            num_classes=weights["classifier.weight"].shape[0],
            in_channels=in_channels,
        )
        return config, f"LeakyReLU of slope {config.slope}, which weights do not tell"

    def flops(self, config: ToyConfig, batch: int, size: ImageSize) -> int:
        pixels = -(-size.height // 2) * -(-size.width // 2)
        entry = pixels * config.in_channels * config.width * 9
        layers = config.layers * pixels * config.width * (9 + config.width)
        return 2 * batch * (entry + layers + config.width * config.num_classes)

    def call_bytes(
        self,
        config: ToyConfig,
        batch: int,
        height: int,
        width: int,
        *,
        precision: Precision,
        format: str,
        block: int | None = None,
    ) -> int:
        return 4 * batch * (height * width * config.in_channels + height * width * config.width)

    def engine_bytes(self, config: ToyConfig, largest: InputSize, precision: Precision) -> int:
        return self.call_bytes(
            config, largest.batch, largest.size.height, largest.size.width, precision=precision, format="onnx"
        )
