"""Kernels of infinitely wide networks: layers as an algebra, and the covariance record that flows through them.

kernel.py          the record: covariances of outputs and of gradients, and of each example with itself
layer.py           Layer, serial, parallel, residual; the finite network of the same layers
dense.py           Dense, fully_connected                conv.py            Conv; windows.py its windows
cosine.py          rectifiers without biases, in place   pooling.py         AvgPool, GlobalAvgPool, Flatten
activation.py      Relu, Erf, Gelu, Sin ... Elementwise  normalization.py   LayerNorm, Dropout
duals.py           their closed forms                    attention.py       Attention, in its closed form
hermite.py         the dual of any other function        tiles.py           infinite_kernel, kernel_tiles
weights.py         NTK parametrization of finite layers
"""

from dtheta.kernels.infinite.activation import Abs as Abs
from dtheta.kernels.infinite.activation import ARelu as ARelu
from dtheta.kernels.infinite.activation import Cos as Cos
from dtheta.kernels.infinite.activation import Elementwise as Elementwise
from dtheta.kernels.infinite.activation import Erf as Erf
from dtheta.kernels.infinite.activation import Exp as Exp
from dtheta.kernels.infinite.activation import Gaussian as Gaussian
from dtheta.kernels.infinite.activation import Gelu as Gelu
from dtheta.kernels.infinite.activation import LeakyRelu as LeakyRelu
from dtheta.kernels.infinite.activation import Relu as Relu
from dtheta.kernels.infinite.activation import SigmoidLike as SigmoidLike
from dtheta.kernels.infinite.activation import Sign as Sign
from dtheta.kernels.infinite.activation import Sin as Sin
from dtheta.kernels.infinite.attention import Attention as Attention
from dtheta.kernels.infinite.conv import Conv as Conv
from dtheta.kernels.infinite.dense import Dense as Dense
from dtheta.kernels.infinite.dense import fully_connected as fully_connected
from dtheta.kernels.infinite.layer import Identity as Identity
from dtheta.kernels.infinite.layer import Layer as Layer
from dtheta.kernels.infinite.layer import parallel as parallel
from dtheta.kernels.infinite.layer import residual as residual
from dtheta.kernels.infinite.layer import serial as serial
from dtheta.kernels.infinite.normalization import Dropout as Dropout
from dtheta.kernels.infinite.normalization import LayerNorm as LayerNorm
from dtheta.kernels.infinite.pooling import AvgPool as AvgPool
from dtheta.kernels.infinite.pooling import Flatten as Flatten
from dtheta.kernels.infinite.pooling import GlobalAvgPool as GlobalAvgPool
from dtheta.kernels.infinite.tiles import Kernels as Kernels
from dtheta.kernels.infinite.tiles import Tile as Tile
from dtheta.kernels.infinite.tiles import infinite_kernel as infinite_kernel
from dtheta.kernels.infinite.tiles import kernel_tiles as kernel_tiles
