"""What GPUs can do, as their makers state it, and the cluster that is planned for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from timeexpert.errors import UserError, did_you_mean

GIB = 2**30


class PlanError(UserError):
    """A plan that cannot be: degrees that do not divide, hardware that is not known."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU. Rates are peaks for dense matrices and per direction; ``source`` says whose figures they are.

    ``memory_gib``: what programs can allocate. ``link_gb_s``: to the GPUs of its node. ``network_gb_s``: its share of
    the node's network. ``host_gb_s``: to the node's memory.
    """

    name: str
    memory_gib: float
    bf16_tflops: float
    fp32_tflops: float
    memory_gb_s: float
    link_gb_s: float
    network_gb_s: float
    host_gb_s: float
    source: str


def _gpus(*gpus: Gpu) -> dict[str, Gpu]:
    return {gpu.name: gpu for gpu in gpus}


# TFLOP/s without sparsity; links and networks one way (data sheets count both). fp32 is what plain float32 gets: torch
# does not use TF32 unless told to.
GPUS = _gpus(
    Gpu(
        name="a100-40g",
        memory_gib=39.4,
        bf16_tflops=312,
        fp32_tflops=19.5,
        memory_gb_s=1555,
        link_gb_s=300,
        network_gb_s=25,
        host_gb_s=32,
        source="NVIDIA A100 data sheet (SXM); DGX A100: one 200 Gb/s port per GPU",
    ),
    Gpu(
        name="a100-80g",
        memory_gib=79.1,
        bf16_tflops=312,
        fp32_tflops=19.5,
        memory_gb_s=2039,
        link_gb_s=300,
        network_gb_s=25,
        host_gb_s=32,
        source="NVIDIA A100 data sheet (SXM); DGX A100: one 200 Gb/s port per GPU",
    ),
    Gpu(
        name="h100-80g",
        memory_gib=79.1,
        bf16_tflops=989.4,
        fp32_tflops=66.9,
        memory_gb_s=3350,
        link_gb_s=450,
        network_gb_s=50,
        host_gb_s=64,
        source="NVIDIA H100 data sheet (SXM); DGX H100: one 400 Gb/s port per GPU",
    ),
    Gpu(
        name="h200-141g",
        memory_gib=139.8,
        bf16_tflops=989.4,
        fp32_tflops=66.9,
        memory_gb_s=4800,
        link_gb_s=450,
        network_gb_s=50,
        host_gb_s=64,
        source="NVIDIA H200 data sheet (SXM); DGX H200: one 400 Gb/s port per GPU",
    ),
    Gpu(
        name="b200-180g",
        memory_gib=178.0,
        bf16_tflops=2250,
        fp32_tflops=75,
        memory_gb_s=8000,
        link_gb_s=900,
        network_gb_s=50,
        host_gb_s=64,
        source="NVIDIA DGX B200 data sheet, an eighth of it; one 400 Gb/s port per GPU",
    ),
    Gpu(
        name="l40s-48g",
        memory_gib=44.4,
        bf16_tflops=362,
        fp32_tflops=91.6,
        memory_gb_s=864,
        link_gb_s=32,
        network_gb_s=25,
        host_gb_s=32,
        source="NVIDIA L40S data sheet: no NVLink, PCIe 4.0 x16; network assumed to be 200 Gb/s per GPU",
    ),
    Gpu(
        name="mi300x-192g",
        memory_gib=191.0,
        bf16_tflops=1307.4,
        fp32_tflops=163.4,
        memory_gb_s=5300,
        link_gb_s=448,
        network_gb_s=50,
        host_gb_s=64,
        source="AMD Instinct MI300X data sheet: seven links of 64 GB/s; network assumed to be 400 Gb/s per GPU",
    ),
)
FIGURES = tuple(field.name for field in fields(Gpu) if field.name not in ("name", "source"))


def find_gpu(name: str, changes: dict[str, float | None] | None = None) -> Gpu:
    """The GPU of that name, with figures of one's own in place of the table's. Raises :class:`PlanError`."""
    if name not in GPUS:
        hint = did_you_mean(name, GPUS)
        raise PlanError(f"--gpu {name!r} is not one of {', '.join(GPUS)}.{hint} Take one and override its figures.")
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    for key, value in given.items():
        if not value > 0:
            raise PlanError(f"--{key.replace('_', '-')} ({value:g}) must be more than 0.")
    return replace(GPUS[name], **given)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes of equal GPUs, and what is assumed about them.

    ``matmul_efficiency``: share of the peak that matrix products reach. ``bandwidth_efficiency``: share of the stated
    bandwidths that collectives and memory traffic reach. ``reserve_gib``: of each GPU's memory for what torch does not
    count (CUDA context, NCCL's buffers) and for fragmentation. ``host_memory_gb_s``, ``host_memory_gib``: of a node's
    memory, where an optimizer runs that is offloaded; all GPUs of the node share it. ``latency_us``: of one
    collective, per doubling of its ranks.
    """

    gpu: Gpu
    nodes: int = 1
    gpus_per_node: int = 8
    matmul_efficiency: float = 0.4
    bandwidth_efficiency: float = 0.8
    reserve_gib: float = 5.0
    host_memory_gb_s: float = 300.0
    host_memory_gib: float = 2000.0
    latency_us: float = 10.0

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus_per_node"):
            if getattr(self, name) < 1:
                raise PlanError(f"--{name.replace('_', '-')} ({getattr(self, name)}) must be 1 or more.")
        for name in ("matmul_efficiency", "bandwidth_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise PlanError(f"--{name.replace('_', '-')} ({getattr(self, name):g}) must be above 0, at most 1.")
        if not 0 <= self.reserve_gib < self.gpu.memory_gib:
            raise PlanError(
                f"--reserve-gib ({self.reserve_gib:g}) must be 0 or more and less than the GPU's memory "
                f"({self.gpu.memory_gib:g} GiB)."
            )

    @property
    def world(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus_per_node

    @property
    def usable_bytes(self) -> int:
        """Memory of one GPU for what torch allocates."""
        return int((self.gpu.memory_gib - self.reserve_gib) * GIB)
