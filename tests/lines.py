"""Tests of one of megatron-core's two lines are skipped on the other, with the reason."""

from __future__ import annotations

import pytest

from grok1.megatron.installed import megatron_line

_IS_0_12 = megatron_line() == "0.12"

# 0.16 learns in the first step which gradients come, and reduces them at its end
STEPS_BEFORE_OVERLAP = 0 if _IS_0_12 else 1
# why device npu is refused where there is no torch_npu
NO_NPU = "device npu needs torch_npu, which is not installed" if _IS_0_12 else "device npu with megatron-core"
ONLY_0_12 = pytest.mark.skipif(not _IS_0_12, reason="stored figures and MindSpeed are of megatron-core 0.12")
