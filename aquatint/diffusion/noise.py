"""Standard normal noise equal, bit for bit, to ``torch.randn`` with a CPU generator, without torch.

PyTorch fills a float32 tensor of 16 or more values with 24-bit uniforms from MT19937 and turns them into normals 16 at
a time by Box-Muller over the pairs ``(j, j + 8)`` (``ATen/native/cpu/DistributionTemplates.h``). On x86-64 with AVX2
the logarithm, sine and cosine are the Cephes single-precision polynomials of ``avx_mathfun.h`` compiled with fused
multiply-adds, which round differently from libm; both are reproduced here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]

_BLOCK = 16
_LOG_COEFFICIENTS = (
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
# pi/4 in three parts, for an exact range reduction (Cody and Waite).
_QUARTER_PI_PARTS = (-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)


def randn(shape: tuple[int, ...], seed: int) -> _Array:
    """Compute ``torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))`` as FP32.

    Only the low 32 bits of ``seed`` reach the generator, as in PyTorch. Raises ``ValueError`` below 16 values, where
    PyTorch uses another algorithm.
    """
    count = math.prod(shape)
    if count < _BLOCK:
        raise ValueError(f"noise needs at least {_BLOCK} values, got shape {shape}")
    generator = np.random.RandomState(seed & 0xFFFFFFFF)
    uniforms = _uniform(generator, count)
    normals = np.empty(count, np.float32)
    whole = count // _BLOCK * _BLOCK
    normals[:whole] = _box_muller(uniforms[:whole])
    if whole < count:
        # PyTorch redraws the last 16 values when the size is no multiple of 16.
        normals[-_BLOCK:] = _box_muller(_uniform(generator, _BLOCK))
    shaped: _Array = normals.reshape(shape)
    return shaped


def _uniform(generator: np.random.RandomState, count: int) -> _Array:
    words = np.frombuffer(generator.bytes(4 * count), "<u4")
    uniforms: _Array = (words & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)
    return uniforms


def _box_muller(uniforms: _Array) -> _Array:
    pairs = uniforms.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2.0) * _log(np.float32(1.0) - pairs[:, 0]))
    sine, cosine = _sine_cosine(np.float32(2.0 * math.pi) * pairs[:, 1])
    normals: _Array = np.stack([radius * cosine, radius * sine], axis=1).reshape(-1)
    return normals


def _fma(a: _Array, b: _Array | np.float32, c: _Array | np.float32) -> _Array:
    """Compute ``a * b + c``, rounded once to float32.

    The product is exact in float64. The sum is rounded to odd, so that rounding again to float32 cannot round twice
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product = a.astype(np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(np.int64)
    inexact_even = (error != 0.0) & ((bits & 1) == 0)
    outward = (error > 0.0) == (total > 0.0)
    bits = np.where(inexact_even, np.where(outward, bits + 1, bits - 1), bits)
    rounded: _Array = bits.view(np.float64).astype(np.float32)
    return rounded


def _log(x: _Array) -> _Array:
    """Compute Cephes ``logf`` on (0, 1], in the operation order of ``avx_mathfun.h``."""
    bits = x.view(np.int32)
    exponent = ((bits >> 23) - 0x7F).astype(np.float32) + np.float32(1.0)
    mantissa = ((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)).view(np.float32)
    small = mantissa < np.float32(math.sqrt(0.5))
    exponent = exponent - small.astype(np.float32)
    x = (mantissa - np.float32(1.0)) + np.where(small, mantissa, np.float32(0.0))
    square = x * x
    y = np.full_like(x, 7.0376836292e-2)
    for coefficient in _LOG_COEFFICIENTS:
        y = _fma(y, x, np.float32(coefficient))
    y = _fma(y * x, square, exponent * np.float32(-2.12194440e-4))
    y = _fma(square, np.float32(-0.5), y)
    return _fma(exponent, np.float32(0.693359375), x + y)


def _sine_cosine(x: _Array) -> tuple[_Array, _Array]:
    """Compute Cephes ``sinf`` and ``cosf`` of non-negative angles, in the operation order of ``avx_mathfun.h``."""
    octant = (x * np.float32(4.0 / math.pi)).astype(np.int32)
    octant = (octant + 1) & ~1
    negate_sine = (octant & 4) != 0
    negate_cosine = (~(octant - 2) & 4) != 0
    swap = (octant & 2) != 0
    turns = octant.astype(np.float32)
    for part in _QUARTER_PI_PARTS:
        x = _fma(turns, np.float32(part), x)
    z = x * x
    cosine = _fma(z, np.float32(2.443315711809948e-5), np.float32(-1.388731625493765e-3))
    cosine = _fma(cosine, z, np.float32(4.166664568298827e-2)) * z
    cosine = _fma(cosine, z, -(z * np.float32(0.5))) + np.float32(1.0)
    sine = _fma(z, np.float32(-1.9515295891e-4), np.float32(8.3321608736e-3))
    sine = _fma(sine, z, np.float32(-1.6666654611e-1)) * z
    sine = _fma(sine, x, x)
    sine, cosine = np.where(swap, cosine, sine), np.where(swap, sine, cosine)
    return np.where(negate_sine, -sine, sine), np.where(negate_cosine, -cosine, cosine)
