"""Tests of one of megatron-core's lines are skipped on the others, with the reason."""

from __future__ import annotations

import pytest

from grok1.megatron.installed import Line, megatron_line

LINE: Line = megatron_line()

# later lines learn in the first step which gradients come, and reduce them at its end
STEPS_BEFORE_OVERLAP = 0 if LINE == "0.12" else 1
# sums over the whole job in a step of megatron's own optimizer: the norm, the losses; 0.12 counts zeros as well
SUMS_OF_A_STEP = 3 if LINE == "0.12" else 2
# why device npu is refused where there is no torch_npu
NO_NPU = "device npu needs torch_npu, which is not installed" if LINE == "0.12" else "device npu with megatron-core"
NO_NPU_REMEDY = "--device cpu" if LINE == "0.12" else r"install .*docs/ascend.md"
HAS_GROUPED_EXPERTS = LINE != "0.19"
LAYS_OUT_TIED_ENDS = LINE != "0.12"  # whatever the weights before them fill
MARKS_EXPERTS_ITSELF = LINE == "0.19"  # as mark_experts_apart does for the others

ONLY_0_12 = pytest.mark.skipif(LINE != "0.12", reason="stored figures and MindSpeed are of megatron-core 0.12")
WITH_OTHER_LAYOUTS = pytest.mark.skipif(LINE != "0.12", reason="megatron-core 0.12 alone resumes in another layout")
WITH_GROUPED_EXPERTS = pytest.mark.skipif(not HAS_GROUPED_EXPERTS, reason="megatron-core 0.19 has no grouped experts")
