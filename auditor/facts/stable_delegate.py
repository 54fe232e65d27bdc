"""The settings file of a TFLite stable delegate, which names its library: FlatBuffers' JSON of TFLiteSettings.

That is JSON with names that may be unquoted, enum values without quotes, comments, and commas before a closing bracket: what ships on
devices has them, and no JSON reader takes it. Sources: FlatBuffers' idl_parser.cpp;
tensorflow/lite/acceleration/configuration/configuration.proto (StableDelegateLoaderSettings).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SETTINGS = 1 << 20
"""Characters of a settings file."""
MAX_DEPTH = 32


_FIELDS = {
    **dict.fromkeys(("delegate", "max_delegated_partitions", "disable_default_delegates"), ""),
    "nnapi_settings": "accelerator_name cache_directory model_token execution_preference no_of_nnapi_instances_to_cache fallback_settings"
    " allow_nnapi_cpu_on_android_10_plus execution_priority allow_dynamic_dimensions allow_fp16_precision_for_fp32 use_burst_computation"
    " support_library_handle",
    "gpu_settings": "is_precision_loss_allowed enable_quantized_inference force_backend inference_priority1 inference_priority2"
    " inference_priority3 inference_preference cache_directory model_token",
    "hexagon_settings": "debug_level powersave_level print_graph_profile print_graph_debug",
    "xnnpack_settings": "num_threads flags weight_cache_file_path runtime_flags experimental_adaptive_avx_optimization",
    "coreml_settings": "enabled_devices coreml_version max_delegated_partitions min_nodes_per_partition",
    "cpu_settings": "num_threads",
    "edgetpu_settings": "inference_power_state inactive_power_configs inference_priority edgetpu_device_spec model_token"
    " float_truncation_type qos_class hardware_cluster_ids public_model_id use_layer_ir_tgc_backend",
    "coral_settings": "device performance usb_always_dfu usb_max_bulk_in_queue_length",
    "fallback_settings": "allow_automatic_fallback_on_compilation_error allow_automatic_fallback_on_execution_error",
    "stable_delegate_loader_settings": "delegate_path delegate_name",
    "google_edgetpu_settings": "log_verbosity enable_tracing priority extension_data model_identifier use_async_api"
    " delegate_should_manage_cache_for_inputs delegate_should_manage_cache_for_outputs prefer_cache_coherency_for_inputs"
    " prefer_cache_coherency_for_outputs allow_fp16_precision_for_fp32",
    "compilation_caching_settings": "cache_dir model_token",
    "armnn_settings": "backends fastmath additional_parameters",
    "mtk_neuron_settings": "execution_preference execution_priority optimization_hints operation_check_mode allow_fp16_precision_for_fp32"
    " use_ahwb use_cacheable_buffer compile_options accelerator_names neuron_config_path inference_deadline_ms inference_abort_time_ms",
}
"""The fields of TFLiteSettings, and of each that is a table its own."""


class Word(str):
    """What is no text, and not in quotes: a number, or the name of an enum's value."""

    __slots__ = ()


Value: TypeAlias = "str | list[Value] | dict[str, Value]"

_TOKEN = re.compile(
    r"""(?:\s|//[^\n]*|/\*.*?\*/)*(?:(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[\w.+-]+)|(?P<mark>[{}\[\]:,]))""", re.DOTALL
)
_REST = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_ESCAPE = re.compile(r'\\.|"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class StableDelegate:
    """What a settings file names: the library's path, or a name that the dynamic linker looks for; and the delegate's own name."""

    path: str
    name: str


def read_settings(text: str) -> StableDelegate:
    """Read a settings file. Raises ValueError, with what was expected, for one that names no library, or that is not understood."""
    settings = parse(text)
    loader = settings.get("stable_delegate_loader_settings") if isinstance(settings, dict) else None
    if not isinstance(loader, dict):
        raise ValueError("stable_delegate_loader_settings: expected an object")  # noqa: TRY004 - of the document, not of an argument
    path, name = loader.get("delegate_path"), loader.get("delegate_name", "")
    if not isinstance(path, str) or isinstance(path, Word) or not path or not path.isprintable():
        raise ValueError("stable_delegate_loader_settings.delegate_path: expected the path of a library")
    return StableDelegate(path, name if isinstance(name, str) else "")


def delegate_paths(text: str) -> tuple[str, ...]:
    """Every library that a settings file names as a `delegate_path`; none where it is not understood."""
    try:
        found = dict.fromkeys(_under("delegate_path", parse(text)))
    except ValueError:
        return ()
    return tuple(path for path in found if path and path.isprintable())


def unknown_fields(text: str) -> tuple[str, ...]:
    """The fields of a settings file that TFLiteSettings does not have, with their places; none where the file is not understood."""
    try:
        settings = parse(text)
    except ValueError:
        return ()
    found = []
    for name, value in settings.items() if isinstance(settings, dict) else ():
        known = _FIELDS.get(name)
        if known is None:
            found.append(name)
        elif isinstance(value, dict) and known:
            found += [f"{name}.{each}" for each in value if each not in known.split()]
    return tuple(each[:80] for each in found)


def parse(text: str) -> Value:
    """The value of a document. Raises ValueError for what is none, or is too long or nested too deeply."""
    if len(text) > MAX_SETTINGS:
        raise ValueError(f"{len(text)} characters, expected at most {MAX_SETTINGS}")
    tokens = list(_tokens(text))
    value, position = _value(tokens, 0, 0)
    if position != len(tokens):
        raise ValueError("more than one value")
    return value


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """The marks, words and texts, each with its kind."""
    position = 0
    while match := _TOKEN.match(text, position):
        kind = str(match.lastgroup)
        yield kind, _unquoted(match[kind]) if kind == "quoted" else match[kind]
        position = match.end()
    rest = _REST.match(text, position)
    if rest is None or rest.end() != len(text):
        raise ValueError(f"character {position}: expected FlatBuffers' JSON")


def _unquoted(literal: str) -> str:
    body = literal[1:-1]
    if literal.startswith("'"):
        body = _ESCAPE.sub(lambda match: {"\\'": "'", '"': '\\"'}.get(match[0], match[0]), body)
    return str(json.loads(f'"{body}"', strict=False))


def _value(tokens: list[tuple[str, str]], position: int, depth: int) -> tuple[Value, int]:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    kind, text = _at(tokens, position)
    if kind != "mark":
        return Word(text) if kind == "word" else text, position + 1
    if text == "[":
        items: list[Value] = []
        position += 1
        while _at(tokens, position) != ("mark", "]"):
            item, position = _value(tokens, position, depth + 1)
            items.append(item)
            position = _separated(tokens, position, "]")
        return items, position + 1
    if text == "{":
        fields: dict[str, Value] = {}
        position += 1
        while _at(tokens, position) != ("mark", "}"):
            kind, name = _at(tokens, position)
            if kind == "mark" or _at(tokens, position + 1) != ("mark", ":") or name in fields:
                raise ValueError(f"{name[:80]!r}: expected the name of another field, and a colon")
            fields[name], position = _value(tokens, position + 2, depth + 1)
            position = _separated(tokens, position, "}")
        return fields, position + 1
    raise ValueError(f"{text!r} where a value was expected")


def _separated(tokens: list[tuple[str, str]], position: int, closing: str) -> int:
    """Past a comma; the last one may be there or not."""
    if _at(tokens, position) == ("mark", ","):
        return position + 1
    if _at(tokens, position) != ("mark", closing):
        raise ValueError(f"{_at(tokens, position)[1][:80]!r} where a comma or {closing} was expected")
    return position


def _at(tokens: list[tuple[str, str]], position: int) -> tuple[str, str]:
    if position >= len(tokens):
        raise ValueError("it ends too early")
    return tokens[position]


def _under(name: str, value: Value) -> Iterator[str]:
    """The texts that fields of this name have, at any depth."""
    if isinstance(value, list):
        for each in value:
            yield from _under(name, each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == name and isinstance(each, str) and not isinstance(each, Word):
                yield each
            yield from _under(name, each)
