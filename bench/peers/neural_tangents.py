"""neural-tangents 0.6.5, the peer of the infinite kernels: reference values for the tests, and timed calls.

It stands alone: it runs in an environment of its own, as this package needs a JAX of early 2024, and imports nothing of
ours. Its demands for tensorflow and tf2jax are never used here, so empty modules stand in for them.

    python3.11 -m venv nt-venv
    nt-venv/bin/pip install "jax==0.4.24" "jaxlib==0.4.24" "numpy<2" "scipy<1.13" frozendict typing_extensions
    nt-venv/bin/pip install --no-deps "neural-tangents==0.6.5"

    nt-venv/bin/python bench/peers/neural_tangents.py golden tests/golden/neural-tangents.json
    nt-venv/bin/python bench/peers/neural_tangents.py time [--float64]

`time` reads a line, computes the kernel of 1000 examples once, writes its CPU seconds, and so on, so that another
process can take turns with it. The first line that it writes is empty and says that it is compiled and warm.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
import warnings
from unittest.mock import MagicMock

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
for name in ("tensorflow", "tf2jax", "jax.experimental.jax2tf"):
    sys.modules[name] = MagicMock(__spec__=None)
warnings.filterwarnings("ignore")
sys.path = [place for place in sys.path if not place.rstrip("/").endswith("peers")]  # this file has the package's name

import jax  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402

HALF = {"W_std": 1.2, "b_std": 0.3}


def numbers(name: str, *shape: int) -> np.ndarray:
    """Multiples of 1/8 in [-2, 2) from a hash, the same on every machine."""
    data = hashlib.shake_256(f"golden {name}".encode()).digest(math.prod(shape))
    return np.array([byte % 32 - 16 for byte in data], dtype=np.float64).reshape(shape) / 8.0


def dense():
    return stax.Dense(1, **HALF)


def conv(*window, **kwargs):
    return stax.Conv(1, window, **HALF, **kwargs)


def attention():
    return stax.GlobalSelfAttention(
        1,
        n_chan_key=1,
        n_chan_val=1,
        n_heads=1,
        W_key_std=0.9,
        W_query_std=0.9,
        W_value_std=1.1,
        W_out_std=1.2,
        b_std=0.3,
    )


def residual(*layers):
    return stax.serial(stax.FanOut(2), stax.parallel(stax.Identity(), stax.serial(*layers)), stax.FanInSum())


def plain(activation):
    return stax.serial(dense(), activation, dense(), activation, dense())


VECTORS = {
    "relu": lambda: plain(stax.Relu()),
    "leaky-relu": lambda: plain(stax.LeakyRelu(0.2)),
    "abs": lambda: plain(stax.Abs()),
    "erf": lambda: plain(stax.Erf()),
    "sigmoid-like": lambda: plain(stax.Sigmoid_like()),
    "gelu": lambda: plain(stax.Gelu()),
    "sin": lambda: plain(stax.Sin(b=1.3, c=0.4)),
    "exp": lambda: plain(stax.Exp(b=0.4)),
    "gaussian": lambda: plain(stax.Gaussian()),
    "sign": lambda: plain(stax.Sign()),
    "layer-norm": lambda: stax.serial(dense(), stax.LayerNorm(eps=1e-3), stax.Relu(), dense()),
    "dropout": lambda: stax.serial(dense(), stax.Relu(), stax.Dropout(0.75), dense(), stax.Relu(), dense()),
    "residual": lambda: stax.serial(dense(), residual(stax.Relu(), dense()), stax.Relu(), dense()),
}
IMAGES = {
    "conv-flatten": lambda: stax.serial(
        conv(3, 3, padding="SAME"), stax.Relu(), conv(3, 2, padding="VALID"), stax.Erf(), stax.Flatten(), dense()
    ),
    "conv-strides": lambda: stax.serial(
        conv(3, 3, padding="CIRCULAR"), stax.Relu(), conv(2, 2, strides=(2, 2), padding="VALID"), stax.Gelu(),
        stax.Flatten(), dense(),
    ),
    "conv-pool": lambda: stax.serial(
        conv(3, 3, padding="SAME"), stax.Relu(), stax.AvgPool((2, 2), (2, 2)), conv(3, 3, padding="CIRCULAR"),
        stax.Relu(), stax.GlobalAvgPool(), dense(),
    ),
    "conv-norm": lambda: stax.serial(
        conv(3, 3, padding="SAME"), stax.LayerNorm(eps=1e-3), residual(stax.Relu(), conv(3, 3, padding="SAME")),
        stax.Relu(), stax.GlobalAvgPool(), dense(),
    ),
    "attention": lambda: stax.serial(dense(), stax.Relu(), attention(), stax.Relu(), stax.GlobalAvgPool(), dense()),
}  # fmt: skip


def golden(path: str) -> None:
    """Write the kernels of small inputs by every network, in float64."""
    jax.config.update("jax_enable_x64", True)
    inputs = {"vectors": [numbers(f"vectors {i}", n, 5) for i, n in enumerate((4, 3))]}
    inputs["images"] = [numbers(f"images {i}", n, 2, 6, 4) for i, n in enumerate((3, 2))]
    found = {
        "made by": "neural-tangents 0.6.5, jax 0.4.24, float64: bench/peers/neural_tangents.py golden",
        "networks": {},
    }
    found["inputs"] = {name: [x.tolist() for x in pair] for name, pair in inputs.items()}
    for kind, networks in (("vectors", VECTORS), ("images", IMAGES)):
        x, x2 = (value if kind == "vectors" else np.moveaxis(value, 1, -1) for value in inputs[kind])
        for name, make in networks.items():
            kernel = jax.jit(make()[2], static_argnames="get")
            pairs = {"same": kernel(x, None, get=("nngp", "ntk")), "other": kernel(x, x2, get=("nngp", "ntk"))}
            found["networks"][name] = {"inputs": kind} | {
                f"{which} {label}": np.asarray(values).tolist()
                for label, both in pairs.items()
                for which, values in zip(("nngp", "ntk"), both, strict=True)
            }
    with open(path, "w") as file:
        file.write(json.dumps(found) + "\n")


def timed(double: bool) -> None:
    """Time one call a line of standard input."""
    jax.config.update("jax_enable_x64", double)
    layers = [layer for _ in range(3) for layer in (stax.Dense(1, W_std=math.sqrt(2)), stax.Relu())]
    kernel = jax.jit(stax.serial(*layers, stax.Dense(1))[2], static_argnames="get")
    x = np.random.default_rng(0).standard_normal((1000, 784)).astype(np.float64 if double else np.float32)
    kernel(x, None, get="ntk").block_until_ready()
    print(flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        kernel(x, None, get="ntk").block_until_ready()
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["golden"] and len(sys.argv) == 3:
        golden(sys.argv[2])
    elif sys.argv[1:2] == ["time"]:
        timed("--float64" in sys.argv)
    else:
        sys.exit(__doc__)
