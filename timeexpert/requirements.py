"""What the package needs, in one place: ``setup.py`` installs from these ranges and ``timeexpert doctor`` checks them.

The exact versions that a checkout is developed and tested with are in ``constraints.txt``.
"""

PYTHON = ">=3.11"

REQUIRED = [
    "torch>=2.11",
    "transformers>=5.17,<6",
    "numpy>=2",
    "av>=14",
    "webdataset>=1.0",
    "sentencepiece>=0.2",
    "safetensors>=0.6",
    "tensorboard>=2.18",
    "matplotlib>=3.9",
    "packaging>=24",
    "pillow>=11",
    "rich>=14",
    "pyyaml>=6",
    "psutil>=6",
]

EXTRAS = {
    "serve": ["uvicorn>=0.30", "starlette>=0.40"],
    "eval": ["pycocoevalcap>=1.2"],
    "peft": ["peft>=0.18"],
    "triton": ["triton>=3.4"],
    "flash": ["flash-attn>=2.8"],
    "deepspeed": ["deepspeed>=0.18"],
    "megatron": ["megatron-core>=0.16"],
    "test": ["pytest>=8", "hypothesis>=6", "setuptools>=77"],
}
EXTRAS["dev"] = [*EXTRAS["test"], "ruff>=0.14", "mypy>=1.18", "types-PyYAML"]
