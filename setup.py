"""Everything about the package stands in pyproject.toml; here is how the model store comes into a wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STORE, PACKAGED = Path(__file__).parent / "onnx_models", "daemon/shipped_models"


class WithModels(build_py):
    """Copies the shipped policies next to the code; an editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode and STORE.is_dir():
            goal = Path(self.build_lib) / PACKAGED
            shutil.rmtree(goal, ignore_errors=True)
            shutil.copytree(STORE, goal)


setup(cmdclass={"build_py": WithModels})
