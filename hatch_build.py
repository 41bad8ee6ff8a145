"""Compile the CPU kernel when the package is built or installed; without a compiler, go on."""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelBuildHook(BuildHookInterface):
    """Puts the compiled kernel into wheels, which then are for one platform and any Python 3."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as not pure where that worked."""
        path = Path(self.root, "src", "nero", "kernels", "cpu", "build.py")
        spec = importlib.util.spec_from_file_location("nero_kernel_build", path)
        if spec is None or spec.loader is None:
            raise RuntimeError(f"cannot load {path}")
        kernel = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernel)
        if kernel.main() == 0 and self.target_name == "wheel":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"].append("src/nero/kernels/cpu/_cpu.so")
