"""Stand-ins for the zoo's models: the exact public graphs with random weights, for machines without the models.

A stand-in has the operators, shapes, parameters and multiply-accumulates of the model, and takes as long; its answers
mean nothing. It is known by its own sha256, so it never passes for the model. Needs numpy, no runtime.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGESTS: Mapping[str, str] = MappingProxyType(
    {
        "selfie_segmentation_landscape_256x256": "1fd44bd554381b47e4f5f4d8b7256dd384d675dc2b4a1caa187cebff3ec83a42",
        "convolution_benchmark_1_144x256": "fdfcf6544a1101730ce2d84b6a14ef88b9fff27bc1c3dfd63f125c08601ee38e",
        "convolution_benchmark_2_144x256": "43388d108466a95cc3a9e04d8f8525fbdfe76007ebf2d8ba4357a1583e7b9fdf",
        "convolution_benchmark_144_256_1": "fdfcf6544a1101730ce2d84b6a14ef88b9fff27bc1c3dfd63f125c08601ee38e",
        "convolution_benchmark_144_256_2": "43388d108466a95cc3a9e04d8f8525fbdfe76007ebf2d8ba4357a1583e7b9fdf",
        "mobilenet_v2_1.0_224": "966a951d19cc9464ff1b06eb2a05ea6aeeb4baa96119dba9955359e5c5ff64c3",
        "mobilenet_v2_1.0_224_quant": "e442af8a312a3b7f60e8dd1c0d1000f26b17f50b40c081984f2890887797bc20",
    }
)

_RENAMED = {
    "convolution_benchmark_144_256_1": "convolution_benchmark_1_144x256",
    "convolution_benchmark_144_256_2": "convolution_benchmark_2_144x256",
}
"""Later names of the same graphs (zoo 0.0.4 and after)."""

_STAND_INS = {
    "0.0.2": (
        "selfie_segmentation_landscape_256x256",
        "convolution_benchmark_1_144x256",
        "convolution_benchmark_2_144x256",
        "mobilenet_v2_1.0_224",
        "mobilenet_v2_1.0_224_quant",
    ),
    "0.0.6": (
        "selfie_segmentation_landscape_256x256",
        "convolution_benchmark_144_256_1",
        "convolution_benchmark_144_256_2",
        "mobilenet_v2_1.0_224",
        "mobilenet_v2_1.0_224_quant",
    ),
}


def stand_ins(zoo_version: str) -> tuple[str, ...]:
    """Names of the models of a zoo version whose graph is public, so that they have a stand-in."""
    return _STAND_INS.get(zoo_version, ())


def digests() -> Mapping[str, str]:
    """Model name to the sha256 of its stand-in, by which a stand-in is known. Renamed models share one file."""
    return _DIGESTS


def generate(name: str) -> bytes:
    """Return the stand-in's .tflite file. A KeyError for a name that no `stand_ins` holds."""
    from auditor.zoo import networks  # noqa: PLC0415 - numpy is only wanted where a model is built

    name = _RENAMED.get(name, name)
    builders = {
        "selfie_segmentation_landscape_256x256": lambda: networks.selfie_segmentation(name, seed=4),
        "convolution_benchmark_1_144x256": lambda: networks.convolution_benchmark(name, channels=3, seed=2),
        "convolution_benchmark_2_144x256": lambda: networks.convolution_benchmark(name, channels=1, seed=3),
        "mobilenet_v2_1.0_224": lambda: networks.mobilenet_v2(name, "FLOAT32", seed=1),
        "mobilenet_v2_1.0_224_quant": lambda: networks.mobilenet_v2(name, "UINT8", seed=1),
    }
    return builders[name]()
