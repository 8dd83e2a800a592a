"""The example in docs/serving.md, run as it stands there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Client

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_example_is_answered(client: Client, video: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert "127.0.0.1:8000" in command
    shutil.copy(video, tmp_path / "clip.mp4")
    command = command.replace("127.0.0.1:8000", client.url.removeprefix("http://"))
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    (choice,) = json.loads(done.stdout)["choices"]
    assert choice["message"]["content"].startswith(f"{choice['message']['events'][0]['start_s']:.1f}")
