"""Packaging: five root folders, one import name. ``moe/gate.py`` is imported as ``timeexpert.moe.gate``.

The ranges of the dependencies stand in ``timeexpert/requirements.py``, where ``timeexpert doctor`` reads them too.
"""

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SIBLINGS = ("moe", "tokenization", "stages", "kernels")
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "timeexpert" / "__init__.py").read_text(encoding="utf-8"))[1]
NEEDS = runpy.run_path(str(ROOT / "timeexpert" / "requirements.py"))

packages = ["timeexpert", *(f"timeexpert.{name}" for name in find_packages(str(ROOT / "timeexpert")))]
package_dir = {"timeexpert": "timeexpert"}
# kernels has no __init__.py, and configs holds no code: both are installed as folders of the package all the same.
# A folder without files is in no clone, hence the look at the disk.
for sibling in (*SIBLINGS, "configs"):
    if (ROOT / sibling).is_dir():
        packages += [
            f"timeexpert.{sibling}",
            *(f"timeexpert.{sibling}.{n}" for n in find_packages(str(ROOT / sibling))),
        ]
        package_dir[f"timeexpert.{sibling}"] = sibling

setup(
    name="timeexpert",
    version=VERSION,
    description="Mixture-of-experts video LLM that says when things happen: training, evaluation, prediction",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=NEEDS["PYTHON"],
    packages=packages,
    package_dir=package_dir,
    package_data={
        "": ["*.yaml", "*.html", "*.css", "*.js"],
        "timeexpert.configs": ["**/*.yaml"],
        "timeexpert.loomdata": ["page/*"],
        "timeexpert.serving": ["page/*"],
    },
    install_requires=NEEDS["REQUIRED"],
    extras_require=NEEDS["EXTRAS"],
    entry_points={"console_scripts": ["timeexpert=timeexpert.cli:main"]},
)
