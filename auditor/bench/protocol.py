"""How long the native tools warm up and run.

Sources: tensorflow/lite/tools/evaluation/stages/inference_profiler_stage.cc (inference_diff),
tensorflow/lite/tools/benchmark/benchmark_model.cc. Numbers made here can be set beside theirs.
"""

from __future__ import annotations

RUNS = 50
"""num_runs of both tools."""
MIN_SECONDS = 1.0
MAX_SECONDS = 150.0
WARMUP_RUNS = 1
WARMUP_SECONDS = 0.5
