"""Where figures come from: device, threads and versions in one line."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import torch


def machine(packages: Iterable[str] = ("torch",)) -> str:
    """Return device, threads and versions in one line.

    Args:
        packages: Distributions whose versions belong to the figures.
    """
    found = [f"python {platform.python_version()}"]
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), {', '.join(found)}"


def processor() -> str:
    """Return the name of the processor, as the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor() or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()
