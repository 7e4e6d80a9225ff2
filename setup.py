"""Everything about the package stands in pyproject.toml; here is what a wheel has besides.

The model store, and the four packages of everyday names within `rltrader`, where neither python-daemon's `daemon` nor a
user's `strategies` stands in their place. `rltrader.pth` makes them importable.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HOME, PACKAGES = "rltrader", ("daemon", "simulator", "strategies", "training")
STORE, PACKAGED = Path(__file__).parent / "onnx_models", "daemon/shipped_models"


class Wheel(build_py):
    """Moves the code into `rltrader`, and copies the shipped policies next to it; an editable install has neither."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        lib = Path(self.build_lib)
        for name in PACKAGES:
            shutil.rmtree(lib / HOME / name, ignore_errors=True)
            shutil.move(lib / name, lib / HOME / name)
        (lib / f"{HOME}.pth").write_text(f"{HOME}\n")
        if STORE.is_dir():
            shutil.copytree(STORE, lib / HOME / PACKAGED)


setup(cmdclass={"build_py": Wheel})
