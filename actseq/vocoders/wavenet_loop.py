"""The loop over samples of `wavenet`, compiled by numba once and cached on disk. Importing this module imports numba.

Every product adds a row of weights to a row of sums, so that the compiler can use vector instructions without changing
the order of the additions. Tables of weights are (inputs, outputs).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actseq.vocoders.kernels import cached_njit

Array = NDArray[Any]


@cached_njit(error_model="numpy")
def draw_samples(  # type: ignore[no-untyped-def]
    first, sketch, levels, reflections, conditions, noise, hop_length, ahead, weights, limits, state, out
):
    """Draw samples one after the other, each given those before it; state is carried from call to call.

    Args:
        first: number of the first sample; those with negative numbers are silent, and fill the state.
        sketch: (ahead + samples,), of which sample `first` is the first.
        levels: (frames,), natural logarithms of levels, from the frame on that holds sample `first`; one frame more
            than holds the last sample of the sketch.
        reflections: (frames, taps), reflection coefficients of the linear prediction of residuals.
        conditions: (frames, layers, 2 · width): what the condition adds to the gates of each layer.
        noise: (samples,), of standard deviation 1, or of another one.
        hop_length: samples of a frame; `first` is a multiple of it.
        ahead: samples of the sketch that are seen ahead.
        weights: tables and biases, see `WaveNet.tables`.
        limits: largest mean of an excitation, least and greatest logarithm of its deviation, largest residual.
        state: past excitations (inverse hyperbolic sines), samples and residuals (3, taps), past sketch
            (2 · taps + ahead,) and past inputs of all layers (n, width), each in a ring; samples and residuals are
            divided by their levels, excitations by their deviation; changed.
        out: (samples,); written.
    """
    front, front_bias, past, present, mix, mix_bias, hidden, hidden_bias, last, last_bias, direct, dilations = weights
    samples, sketches, rings = state
    taps, width = samples.shape[1], front.shape[1]
    n_inputs, n_layers, size = front.shape[0], past.shape[0], sketches.shape[0]
    inputs, x = np.empty(n_inputs, np.float32), np.empty(width, np.float32)
    gate, gated = np.empty(2 * width, np.float32), np.empty(width, np.float32)
    mixed, skipped = np.empty(2 * width, np.float32), np.empty(width, np.float32)
    predictor, former = np.empty(taps, np.float32), np.empty(taps, np.float32)
    second, found = np.empty(width, np.float32), np.empty(2, np.float32)
    for n in range(out.shape[0]):
        number = first + n
        # The sketch that comes into sight, in its own level.
        seen = n + ahead
        frame, share = seen // hop_length, np.float32(seen % hop_length) / np.float32(hop_length)
        level = np.exp(levels[frame] + share * (levels[frame + 1] - levels[frame]))
        sketches[(number + ahead) % size] = sketch[seen] / level
        frame, share = n // hop_length, np.float32(n % hop_length) / np.float32(hop_length)
        level = np.exp(levels[frame] + share * (levels[frame + 1] - levels[frame]))
        # The linear predictor between two frames, and the deviation of what it leaves.
        scale = np.float32(1)
        for k in range(taps):
            one = reflections[frame, k] + share * (reflections[frame + 1, k] - reflections[frame, k])
            for j in range(k):
                former[j] = predictor[j]
            for j in range(k):
                predictor[j] -= one * former[k - 1 - j]
            predictor[k] = one
            scale *= np.float32(1) - one * one
        scale = np.sqrt(scale)
        predicted = np.float32(0)
        for k in range(taps):
            before = (number - 1 - k) % taps
            inputs[k] = samples[0, before]
            inputs[taps + k] = samples[1, before]
            predicted += predictor[k] * samples[2, before]
            inputs[2 * taps + k] = sketches[(number - k) % size]
            inputs[3 * taps + k] = sketches[(number + 1 + k) % size]
            inputs[4 * taps + k] = sketches[(number + ahead - k) % size]
        for o in range(width):
            x[o] = front_bias[o]
            skipped[o] = 0
        for i in range(n_inputs):
            value = inputs[i]
            for o in range(width):
                x[o] += value * front[i, o]
        start = 0
        for layer in range(n_layers):
            place = start + number % dilations[layer]
            for o in range(2 * width):
                one = conditions[frame, layer, o]
                gate[o] = one + share * (conditions[frame + 1, layer, o] - one)
                mixed[o] = mix_bias[layer, o]
            for i in range(width):
                value = rings[place, i]
                for o in range(2 * width):
                    gate[o] += value * past[layer, i, o]
            for i in range(width):
                value = x[i]
                for o in range(2 * width):
                    gate[o] += value * present[layer, i, o]
            for o in range(width):
                rings[place, o] = x[o]
                gated[o] = math.tanh(gate[o]) / (np.float32(1) + np.exp(-gate[width + o]))
            for i in range(width):
                value = gated[i]
                for o in range(2 * width):
                    mixed[o] += value * mix[layer, i, o]
            for o in range(width):
                x[o] += mixed[o]
                skipped[o] += mixed[width + o]
            start += dilations[layer]
        for o in range(width):
            skipped[o] = max(skipped[o], np.float32(0))
            second[o] = hidden_bias[o]
        for i in range(width):
            value = skipped[i]
            for o in range(width):
                second[o] += value * hidden[i, o]
        for o in range(width):
            second[o] = max(second[o], np.float32(0))
        found[0], found[1] = last_bias[0], last_bias[1]
        for i in range(width):
            value = second[i]
            for o in range(2):
                found[o] += value * last[i, o]
        for k in range(n_inputs):
            found[0] += inputs[k] * direct[k]
        place = number % taps
        if number < 0:
            for k in range(3):
                samples[k, place] = 0
            out[n] = 0
            continue
        excitation = limits[0] * math.tanh(found[0] / limits[0])
        excitation += np.exp(min(max(found[1], limits[1]), limits[2])) * noise[n]
        residual = min(max(predicted + scale * excitation, -limits[3]), limits[3])
        samples[0, place] = math.asinh((residual - predicted) / scale)
        samples[1, place] = sketches[number % size] + residual
        samples[2, place] = residual
        out[n] = level * samples[1, place]
