"""Packaging: five root folders, one import name. ``moe/gate.py`` is imported as ``timeexpert.moe.gate``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SIBLINGS = ("moe", "tokenization", "stages", "kernels")
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "timeexpert" / "__init__.py").read_text())[1]

packages = ["timeexpert", *(f"timeexpert.{name}" for name in find_packages("timeexpert"))]
package_dir = {"timeexpert": "timeexpert"}
for sibling in SIBLINGS:
    packages += [f"timeexpert.{sibling}", *(f"timeexpert.{sibling}.{name}" for name in find_packages(sibling))]
    package_dir[f"timeexpert.{sibling}"] = sibling

EXTRAS = {
    "serve": ["uvicorn>=0.30", "starlette>=0.40"],
    "eval": ["pycocoevalcap>=1.2"],
    "peft": ["peft>=0.18"],
    "triton": ["triton>=3.4"],
    "flash": ["flash-attn>=2.8"],
    "deepspeed": ["deepspeed>=0.18"],
    "megatron": ["megatron-core>=0.16"],
    "test": ["pytest>=8", "hypothesis>=6"],
}
EXTRAS["dev"] = [*EXTRAS["test"], "ruff>=0.14", "mypy>=1.18", "types-PyYAML"]

setup(
    name="timeexpert",
    version=VERSION,
    description="Mixture-of-experts video LLM that says when things happen: training, evaluation, prediction",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=packages,
    package_dir=package_dir,
    package_data={"timeexpert": ["configs/*.yaml"]},
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17,<6",
        "numpy>=2",
        "av>=14",
        "webdataset>=1.0",
        "sentencepiece>=0.2",
        "safetensors>=0.6",
        "tensorboard>=2.18",
        "matplotlib>=3.9",
        "pillow>=11",
        "rich>=14",
        "pyyaml>=6",
        "psutil>=6",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["timeexpert=timeexpert.cli:main"]},
)
