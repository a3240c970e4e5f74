"""What data sheets say of GPUs: the one table for the MFU of a run and for estimates."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """memory: GB (10^9); tflops: dense bfloat16, without sparsity; link, network: GB/s one way, in a node and between nodes."""

    memory: float
    tflops: float
    link: float
    network: float


# By what the device's name contains; the first key that is in it holds.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX A6000": 154.8,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
# By the name on the command line: nodes of SXM modules.
GPUS = {
    "a100": Gpu(80, PEAK_TFLOPS["A100"], 300, 25),
    "a100-40gb": Gpu(40, PEAK_TFLOPS["A100"], 300, 25),
    "h100": Gpu(80, PEAK_TFLOPS["H100"], 450, 50),
    "h200": Gpu(141, PEAK_TFLOPS["H200"], 450, 50),
    "b200": Gpu(180, PEAK_TFLOPS["B200"], 900, 50),
}
