"""All facts about a device, from one source: the same questions, in the same order, from the same answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.facts.accelerators import read_accelerators
from auditor.facts.closure import read_closure
from auditor.facts.dma_buf import read_dma_buf
from auditor.facts.firmware import read_firmware
from auditor.facts.identity import read_identity
from auditor.facts.iommu import read_iommu
from auditor.facts.kernel import read_kernel
from auditor.facts.loading import read_loading
from auditor.facts.ml_service import read_ml_service
from auditor.facts.plan import read_plan
from auditor.facts.reading import Device
from auditor.facts.runs import read_models
from auditor.facts.sandbox import read_sandbox
from auditor.facts.tracing import read_tracing
from auditor.facts.types import Facts, Missing, Ok, Plan, Settings
from auditor.facts.vfio import read_vfio

if TYPE_CHECKING:
    from auditor.sources.base import Source


def collect(source: Source) -> Facts:
    """Ask a source everything that the checks may need."""
    device = Device(source)
    asked = read_plan(device)
    plan = asked.value if isinstance(asked, Ok) else Plan()
    kernel = read_kernel(device)
    accelerators = asked if isinstance(asked, Missing) else read_accelerators(device, kernel, plan.accelerators, plan.not_accelerators)
    loading = read_loading(device, kernel)
    closure = read_closure(device, plan)
    return Facts(
        plan=plan,
        settings=Settings(),
        accelerators=accelerators,
        kernel=kernel,
        iommu=read_iommu(device),
        loading=loading,
        firmware=read_firmware(device, kernel, loading, accelerators, plan.firmware_images),
        closure=closure,
        sandbox=read_sandbox(device, accelerators),
        tracing=read_tracing(device, accelerators, closure),
        dma_buf=read_dma_buf(device, accelerators),
        vfio=read_vfio(device, plan, accelerators),
        ml_service=read_ml_service(device),
        models=read_models(device, plan),
        identity=read_identity(device),
    )
