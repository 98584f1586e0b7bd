"""The figures of CogView3's tables: arXiv 2403.05121v1, Tables 1 and 2, and its relay starts.

`time` is seconds for four pictures of 1024² at once; the paper does not name the GPU. It does not
state the files of its metrics or the versions of its libraries either, so no figure here has a
protocol, and none is compared with a measured one by a test.
"""

from collections.abc import Mapping
from types import MappingProxyType

SOURCE = "CogView3, arXiv 2403.05121v1"
_PREFERENCES = ("aes", "hps", "imagereward")


def _row(
    time: float,
    drawbench: tuple[float, ...],
    partiprompts: tuple[float, ...],
    coco: tuple[float, ...],
) -> dict[str, float]:
    """Return a row's figures by column; each set has _PREFERENCES, and COCO has FID before them."""
    sets = {"drawbench": drawbench, "partiprompts": partiprompts, "coco5k": coco[1:]}
    figures = {"time": time, "coco5k/fid": coco[0]}
    for name, values in sets.items():
        figures |= {f"{name}/{m}": v for m, v in zip(_PREFERENCES, values, strict=True)}
    return figures


def _start(hps: float, imagereward: float) -> dict[str, float]:
    return {"drawbench/hps": hps, "drawbench/imagereward": imagereward}


# row → column → figure
FIGURES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "sdxl": _row(
            19.67, (5.54, 0.288, 0.676), (5.78, 0.287, 0.915), (26.29, 5.63, 0.291, 0.820)
        ),
        "stable_cascade": _row(
            10.83, (5.88, 0.285, 0.677), (5.93, 0.285, 1.029), (36.59, 5.89, 0.283, 0.734)
        ),
        "cogview3": _row(
            10.33, (5.97, 0.290, 0.847), (6.15, 0.290, 1.025), (31.63, 6.01, 0.294, 0.967)
        ),
        "lcm_sdxl": _row(
            2.06, (5.45, 0.279, 0.394), (5.59, 0.280, 0.689), (27.16, 5.39, 0.281, 0.566)
        ),
        "cogview3_distill_4_1": _row(
            1.47, (5.87, 0.288, 0.731), (6.12, 0.287, 0.968), (34.03, 5.99, 0.292, 0.920)
        ),
        "cogview3_distill_8_2": _row(
            1.96, (5.90, 0.285, 0.655), (6.13, 0.288, 0.963), (35.53, 6.00, 0.293, 0.921)
        ),
        "relay_200": _start(0.288, 0.829),
        "relay_400": _start(0.289, 0.835),
        "relay_500": _start(0.290, 0.847),
        "relay_600": _start(0.289, 0.836),
        "relay_800": _start(0.286, 0.812),
    }
)
