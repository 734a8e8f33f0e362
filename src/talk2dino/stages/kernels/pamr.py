"""PAMR on a CPU: one pass over memory an iteration, all cores, no copies of neighbours.

What makes it fast:
- Classes are innermost, LANES at a time: a neighbour's scores of up to 24 classes are a few vector registers, loaded in
  one go at one address, and its affinity is one number for all of them.
- A border of replicated pixels surrounds the map, so that a neighbour is a constant distance away in memory.
- The 48 products of PIXELS neighbouring pixels are summed in registers; each score is written once an iteration.
- Rows are shared out to threads in bands; threads are Python's own (the kernels release the lock), as many as
  torch.get_num_threads(), so that no second OpenMP runtime competes with torch's and calls may come from any thread.

Classes pass in blocks of up to 24, all iterations of a block before the next: memory does not grow with classes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor

from talk2dino.stages.kernels.compiled import compiled

LANES = 8  # classes of one vector
BLOCK = 3  # vectors of one block of classes at most: PIXELS * BLOCK sums fit the 16 registers of AVX2
LARGEST_SCRATCH = 16_000_000  # numbers of an array that is kept for the next call: 64 MB, enough for 640 x 480
PIXELS = 4  # neighbouring pixels whose sums are kept in registers together

FLOAT = np.float32
LOG2_E = FLOAT(1.4426950408889634)
LN_2 = FLOAT(0.6931471805599453)
SMALLEST = FLOAT(80)  # exp(-80) counts as nothing and stays clear of denormal numbers


@intrinsic
def _weighted_sums(typing_context, target, source, centre, weights, first, offsets, vectors):
    """Update PIXELS pixels from ``centre`` on: target[p] = sum_k weights[p, k] source[p + offsets[k]].

    A pixel is ``vectors`` (a literal) times LANES numbers; positions are indices into flat arrays. Written in LLVM's
    terms because the sums have to stay in registers across the loop over neighbours.
    """
    if not isinstance(vectors, types.IntegerLiteral):
        return None
    count = vectors.literal_value
    signature = types.void(target, source, centre, weights, first, offsets, vectors)

    def generate(context, builder, signature, arguments):
        arrays = [cgutils.create_struct_proxy(t)(context, builder, value=v) if isinstance(t, types.Array) else v
                  for t, v in zip(signature.args, arguments, strict=True)]  # fmt: skip
        target, source, centre, weights, first, offsets, _ = arrays
        vector = ir.VectorType(ir.FloatType(), LANES)
        index = centre.type
        neighbours = builder.extract_value(offsets.shape, 0)
        places = [(pixel, lane) for pixel in range(PIXELS) for lane in range(count)]

        def at(array, position, place):
            pixel, lane = place
            position = builder.add(position, index((pixel * count + lane) * LANES))
            return builder.bitcast(builder.gep(array.data, [position]), vector.as_pointer())

        sums = {place: cgutils.alloca_once(builder, vector) for place in places}
        for place in places:
            builder.store(vector(None), sums[place])
        with cgutils.for_range(builder, neighbours) as loop:
            neighbour = builder.add(centre, builder.load(builder.gep(offsets.data, [loop.index])))
            for pixel in range(PIXELS):
                position = builder.add(builder.add(first, builder.mul(index(pixel), neighbours)), loop.index)
                weight = builder.load(builder.gep(weights.data, [position]))
                weight = builder.insert_element(vector(ir.Undefined), weight, ir.IntType(32)(0))
                splat = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
                weight = builder.shuffle_vector(weight, vector(ir.Undefined), splat)
                for lane in range(count):
                    place = (pixel, lane)
                    value = builder.load(at(source, neighbour, place), align=4)
                    product = builder.fmul(weight, value, flags=("contract",))
                    builder.store(builder.fadd(builder.load(sums[place]), product, flags=("contract",)), sums[place])
        for place in places:
            builder.store(builder.load(sums[place]), at(target, centre, place), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _float_of_bits(typing_context, bits):
    """The float32 that has these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@compiled
def _exp_minus(x):
    """exp(-x) for x >= 0 to 2e-7: 2^-n exp(-r), written so that it becomes vector code."""
    x = min(x, SMALLEST)
    n = np.int32(x * LOG2_E + FLOAT(0.5))
    r = FLOAT(n) * LN_2 - x
    series = FLOAT(1 / 720)
    for factor in (FLOAT(1 / 120), FLOAT(1 / 24), FLOAT(1 / 6), FLOAT(1 / 2), FLOAT(1), FLOAT(1)):
        series = series * r + factor
    return series * _float_of_bits(np.int32((np.int32(127) - n) << np.int32(23)))


@compiled
def affinity_rows(weights, pixels, dy, dx, reach, first_row, last_row):
    """Fill weights (H, W', K) for rows first_row..last_row - 1 from pixels (3, H + 2 reach, W + 2 reach)."""
    width = pixels.shape[2] - 2 * reach
    neighbours = len(dy)
    count = FLOAT(neighbours // 8 * 9)
    scale = np.empty((3, width), FLOAT)
    total = np.empty(width, FLOAT)
    squares = np.empty(width, FLOAT)
    row_weights = np.empty((neighbours, width), FLOAT)
    for row in range(first_row, last_row):
        for channel in range(3):
            own = pixels[channel, reach + row, reach : reach + width]
            total[:] = FLOAT(0)
            squares[:] = FLOAT(0)
            for k in range(neighbours):
                other = pixels[channel, reach + row + dy[k], reach + dx[k] : reach + dx[k] + width]
                for x in range(width):
                    difference = other[x] - own[x]
                    total[x] += difference
                    squares[x] += difference * difference
            for x in range(width):
                variance = max(squares[x] - total[x] * total[x] / count, FLOAT(0)) / (count - FLOAT(1))
                scale[channel, x] = FLOAT(1) / (FLOAT(3) * (FLOAT(1e-8) + FLOAT(0.1) * np.sqrt(variance)))
        total[:] = FLOAT(0)
        for k in range(neighbours):
            y, left = reach + row + dy[k], reach + dx[k]
            for x in range(width):
                distance = FLOAT(0)
                for channel in range(3):
                    difference = pixels[channel, y, left + x] - pixels[channel, reach + row, reach + x]
                    distance += abs(difference) * scale[channel, x]
                # No maximum to subtract first: the mean of the 48 distances is at most 31.5 by definition of the deviation.
                weight = _exp_minus(distance)
                row_weights[k, x] = weight
                total[x] += weight
        for x in range(width):
            share = FLOAT(1) / total[x]
            for k in range(neighbours):
                weights[row, x, k] = row_weights[k, x] * share


@compiled
def _continue_rows(maps, height, width, reach, first_row, last_row):
    """Write the border left and right of rows of maps (H + 2 reach, W', lanes) and, for the outer rows, above and below."""
    line, lanes = maps.shape[1], maps.shape[2]
    for y in range(reach + first_row, reach + last_row):
        for x in range(reach):
            for lane in range(lanes):
                maps[y, x, lane] = maps[y, reach, lane]
        for x in range(reach + width, line):
            for lane in range(lanes):
                maps[y, x, lane] = maps[y, reach + width - 1, lane]
    for border in range(reach):
        for x in range(line):
            for lane in range(lanes):
                if first_row == 0:
                    maps[border, x, lane] = maps[reach, x, lane]
                if last_row == height:
                    maps[reach + height + border, x, lane] = maps[reach + height - 1, x, lane]


@compiled
def pack_rows(maps, masks, reach, first_row, last_row):
    """masks (n, H, W) to the inside and border of maps (H + 2 reach, W', lanes >= n)."""
    classes, height, width = masks.shape
    for row in range(first_row, last_row):
        for lane in range(classes):
            for x in range(width):
                maps[reach + row, reach + x, lane] = masks[lane, row, x]
        for lane in range(classes, maps.shape[2]):
            for x in range(width):
                maps[reach + row, reach + x, lane] = FLOAT(0)
    _continue_rows(maps, height, width, reach, first_row, last_row)


@compiled
def unpack_rows(masks, maps, reach, first_row, last_row):
    """The inside of maps to masks (n, H, W)."""
    classes, _, width = masks.shape
    for row in range(first_row, last_row):
        for lane in range(classes):
            for x in range(width):
                masks[lane, row, x] = maps[reach + row, reach + x, lane]


@compiled
def update_rows(target, source, weights, offsets, reach, width, first_row, last_row):
    """One iteration for rows first_row..last_row - 1, border included."""
    line, lanes = source.shape[1], source.shape[2]
    neighbours = len(offsets)
    flat_target, flat_source, flat_weights = target.reshape(-1), source.reshape(-1), weights.reshape(-1)
    for row in range(first_row, last_row):
        for x in range(0, width, PIXELS):
            centre = ((reach + row) * line + reach + x) * lanes
            first = (row * weights.shape[1] + x) * neighbours
            if lanes == LANES:
                _weighted_sums(flat_target, flat_source, centre, flat_weights, first, offsets, 1)
            elif lanes == 2 * LANES:
                _weighted_sums(flat_target, flat_source, centre, flat_weights, first, offsets, 2)
            else:
                _weighted_sums(flat_target, flat_source, centre, flat_weights, first, offsets, 3)
    _continue_rows(target, weights.shape[0], width, reach, first_row, last_row)


class _Scratch(threading.local):
    """Memory that the next call of the same thread uses again: asking the system for it anew costs a tenth of a call."""

    def __init__(self) -> None:
        self.blocks: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array with any content; kept for the next call unless it is larger than :data:`LARGEST_SCRATCH`."""
        size = int(np.prod(shape))
        if size > LARGEST_SCRATCH:
            return np.empty(shape, FLOAT)
        if name not in self.blocks or self.blocks[name].size < size:
            self.blocks[name] = np.empty(size, FLOAT)
        return self.blocks[name][:size].reshape(shape)


_scratch = _Scratch()


def refine_cpu(masks: Tensor, pixels: Tensor, offsets: Sequence[tuple[int, int]], iterations: int) -> Tensor:
    """PAMR of (B, N, H, W) masks by (B, 3, H, W) pixels, both float32 on the CPU; iterations >= 1.

    ``offsets``: (dy, dx) of each neighbour, 8 a dilation.
    """
    height, width = masks.shape[-2:]
    reach = max(abs(step) for offset in offsets for step in offset)
    dy, dx = np.array(offsets, dtype=np.int64).T.copy()
    # The last group of PIXELS may reach past the picture: what it writes there is overwritten by the border.
    line = -(-width // PIXELS) * PIXELS
    weights = _scratch.array("weights", (height, line, len(offsets)))
    result = np.empty(masks.shape, FLOAT)

    threads = min(torch.get_num_threads(), height)
    with ThreadPoolExecutor(threads, thread_name_prefix="pamr") as pool:

        def share_rows(kernel: Callable, *arguments) -> None:
            """Run a kernel over all rows, two bands of them a thread, and wait."""
            if threads == 1:
                kernel(*arguments, 0, height)
                return
            cuts = np.linspace(0, height, min(2 * threads, height) + 1).astype(np.int64).tolist()
            list(pool.map(lambda first, last: kernel(*arguments, first, last), cuts[:-1], cuts[1:]))

        for scores, picture, refined in zip(masks.contiguous().numpy(), pixels, result, strict=True):
            padded = F.pad(picture[None], [reach] * 4, mode="replicate")[0].numpy()
            share_rows(affinity_rows, weights, padded, dy, dx, reach)
            for block in _blocks(len(scores)):
                lanes = -(-(block.stop - block.start) // LANES) * LANES
                shape = (height + 2 * reach, line + 2 * reach, lanes)
                source, target = _scratch.array("source", shape), _scratch.array("target", shape)
                distances = (dy * shape[1] + dx) * lanes
                share_rows(pack_rows, source, scores[block], reach)
                for _ in range(iterations):
                    share_rows(update_rows, target, source, weights, distances, reach, width)
                    source, target = target, source
                share_rows(unpack_rows, refined[block], source, reach)
    return torch.from_numpy(result)


def _blocks(classes: int) -> list[slice]:
    """Blocks of at most BLOCK * LANES classes, their numbers of vectors as even as can be."""
    vectors = -(-classes // LANES)
    count = -(-vectors // BLOCK)
    cuts = [vectors * block // count * LANES for block in range(count)] + [classes]
    return [slice(first, last) for first, last in itertools.pairwise(cuts)]
