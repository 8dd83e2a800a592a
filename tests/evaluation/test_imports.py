from __future__ import annotations

import subprocess
import sys


def test_evaluation_needs_neither_torch_nor_transformers():
    code = "import sys, timeexpert.evaluation; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
