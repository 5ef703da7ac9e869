"""Spoken sentences for the synthetic stand-in: an actor's own voice, coloured by an emotion.

A source (the harmonics of a pitch contour, and breath) passes through moving formants, syllable by syllable.
The emotions change pitch, loudness, rate, timbre and steadiness in the directions that studies of acted speech
report (Juslin & Laukka, Psychological Bulletin 129(5), 2003, table 7).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

RATE = 16_000  # Hz, CREMA-D's own
SHORTEST = 3.25  # s, so that 1 fps gives four frames (the fourth is shown at 2.9 s) and the filterbank 320
LONGEST = 3.6
_WINDOW, _HOP = 512, 128

# CREMA-D's twelve sentences by the vowels of their syllables; a capital is stressed.
SENTENCES = {
    "IEO": "iiEeoO",  # It's eleven o'clock
    "TIE": "aieAiOAe",  # That is exactly what happened
    "IOM": "aoaEueIi",  # I'm on my way to the meeting
    "IWW": "aOeoiiaA",  # I wonder what this is about
    "TAI": "eEeiOoU",  # The airplane is almost full
    "MTI": "EioOoiiiO",  # Maybe tomorrow it will be cold
    "IWL": "auAaUaAO",  # I would like a new alarm clock
    "ITH": "aIaaaOeaOe",  # I think I have a doctor's appointment
    "DFA": "OoEaAe",  # Don't forget a jacket
    "ITS": "aIaIiiO",  # I think I've seen this before
    "TSI": "eOeiI",  # The surface is slick
    "WSI": "iOiaOeoIe",  # We'll stop in a couple of minutes
}
_FORMANTS = {  # Hz, of an average speaker (after Peterson & Barney, 1952)
    "a": (730, 1200, 2450),
    "e": (560, 1750, 2500),
    "i": (320, 2250, 2950),
    "o": (500, 900, 2450),
    "u": (350, 950, 2300),
}
_JAW = {"a": 1.0, "e": 0.7, "i": 0.4, "o": 0.7, "u": 0.35}  # how far each vowel opens the mouth


class Prosody(NamedTuple):
    """How an emotion changes a voice; nought throughout is the actor's neutral voice."""

    pitch: float = 0.0  # semitones
    range: float = 0.0  # doublings of the pitch movements
    slope: float = 0.0  # semitones over the sentence
    loudness: float = 0.0  # dB
    attack: float = 0.0  # doublings of the swing between loud and soft
    rate: float = 0.0  # doublings of the syllable rate
    tilt: float = 0.0  # dB an octave; positive is brighter
    breath: float = 0.0  # share of noise in the source
    tremor: float = 0.0  # semitones, at about 6 Hz
    rough: float = 0.0  # every other period of the voice weaker: harshness, creak
    formants: float = 0.0  # shift of the formants: lips spread (+) or pushed forward (-)


PROSODIES = {
    "NEU": Prosody(),
    "HAP": Prosody(7.0, 1.2, 3.0, 3.0, 0.4, 0.1, 0.0, 0.0, 0.0, 0.0, 0.12),
    "SAD": Prosody(-1.0, -1.2, -2.5, -11.0, -0.8, -0.45, -4.0, 0.30, 0.2, 0.0, -0.04),
    "FEA": Prosody(9.0, -1.0, 1.0, -4.0, -0.5, 0.5, 1.0, 0.60, 1.6, 0.0, 0.0),
    "DIS": Prosody(-2.5, 0.2, -5.0, -2.0, 0.2, -0.4, -2.0, 0.05, 0.0, 0.8, -0.12),
    "ANG": Prosody(3.0, 0.5, -2.0, 10.0, 0.8, 0.25, 6.0, 0.15, 0.0, 0.5, 0.0),
}


@dataclass(frozen=True)
class Voice:
    """An actor's own voice."""

    pitch: float  # Hz, the middle of the neutral voice
    tract: float  # formants relative to an average speaker's
    tilt: float  # dB an octave
    breath: float
    rate: float  # syllables a second
    range: float  # semitones

    @classmethod
    def of(cls, actor: int, rng: np.random.Generator) -> "Voice":
        """The voice of actor number `actor` (from 0): low and high voices in turn."""
        high = actor % 2
        return cls(
            pitch=float((115, 180)[high] * 2 ** rng.normal(0, 0.12)),
            tract=float((0.95, 1.1)[high] * 2 ** rng.normal(0, 0.05)),
            tilt=rng.normal(0, 0.7),
            breath=rng.uniform(0.02, 0.10),
            rate=rng.uniform(4.2, 5.2),
            range=rng.uniform(1.8, 3.0),
        )


@dataclass(frozen=True)
class Speech:
    """One spoken sentence.

    Arguments:
        samples: (n,) int16 at RATE.
        starts, lengths: of the syllables, in seconds.
        jaw: how far each syllable opens the mouth, 0 to 1.
    """

    samples: npt.NDArray[np.int16]
    starts: Samples
    lengths: Samples
    jaw: Samples

    def opening(self, times: Samples) -> Samples:
        """How far the mouth is open at `times` (seconds), 0 to 1."""
        phase = (times[:, None] - self.starts) / self.lengths
        return (np.sin(np.pi * np.clip(phase, 0, 1)) * self.jaw).max(1)


def speak(voice: Voice, sentence: str, emotion: str, intensity: float, rng: np.random.Generator) -> Speech:
    """Speak a sentence.

    Arguments:
        voice: the actor's.
        sentence: a key of SENTENCES.
        emotion: a key of PROSODIES.
        intensity: 0 (neutral) to 1, or a little more.
        rng: the clip's own source of chance.
    """
    meant = np.asarray(PROSODIES[emotion])
    now = Prosody(*(intensity * meant * np.clip(rng.normal(1, 0.12, meant.size), 0.5, 1.5)).tolist())
    vowels = SENTENCES[sentence]
    seconds = rng.uniform(SHORTEST, LONGEST)
    starts, lengths = _timing(voice, now, len(vowels), seconds, rng)
    stress = np.array([1.0 if v.isupper() else 0.55 for v in vowels])
    times = np.arange(int(seconds * RATE) // _HOP + 1) * _HOP / RATE
    phase = np.clip((times[:, None] - starts) / lengths, 0, 1)
    bump = np.sin(np.pi * phase) ** 0.5  # (times, syllables): how far into each syllable
    share = (bump + 1e-3) / (bump + 1e-3).sum(1, keepdims=True)

    semitones = _melody(voice, now, times, starts, lengths, bump, stress, rng)
    level = (bump * (1 - (1 - stress) * 0.6 * 2**now.attack)).max(1)
    source = _source(voice.pitch * 2 ** (semitones / 12), now, voice, len(times) * _HOP, rng)
    tones = np.array([_FORMANTS[v.lower()] for v in vowels]) * voice.tract * (1 + now.formants)
    tones = tones * rng.normal(1, 0.03, tones.shape)
    filters = _formant_filter(share @ tones, voice.tilt + now.tilt)
    loud = 0.10 * 10 ** ((now.loudness + rng.normal(0, 1.0)) / 20)
    spoken = _shape(source, filters * np.clip(level, 0, None)[:, None])
    spoken *= loud / (np.sqrt(np.mean(spoken**2)) + 1e-9)
    spoken += _hiss(starts, stress, loud, len(spoken), rng)
    room = rng.normal(0, 1, len(spoken)) * 10 ** (rng.uniform(-62, -50) / 20)
    samples = np.tanh((spoken + room)[: int(seconds * RATE)])  # a loud voice saturates, as microphones do
    jaw = np.array([_JAW[v.lower()] for v in vowels]) * (0.5 + 0.5 * stress)
    return Speech((samples * 32_000).astype(np.int16), starts, lengths, jaw)


def _timing(
    voice: Voice, now: Prosody, syllables: int, seconds: float, rng: np.random.Generator
) -> tuple[Samples, Samples]:
    """When the syllables start and how long they are; a slow sentence is hurried where it would not fit."""
    start = rng.uniform(0.2, 0.45)
    lengths = rng.uniform(0.8, 1.2, syllables) / (voice.rate * 2**now.rate)
    lengths[-1] *= 1.4  # the last syllable is drawn out
    lengths *= min(1.0, (seconds - start - 0.15) / lengths.sum())
    return start + np.concatenate(([0.0], np.cumsum(lengths)[:-1])), lengths


def _melody(
    voice: Voice, now: Prosody, times: Samples, starts: Samples, lengths: Samples, bump: Samples, stress: Samples,
    rng: np.random.Generator,
) -> Samples:  # fmt: skip
    """The pitch in semitones over the actor's own: accents, the sentence's slope, tremor and chance."""
    progress = np.clip((times - starts[0]) / (starts[-1] + lengths[-1] - starts[0]), 0, 1)
    span = voice.range * 2**now.range
    accents = bump @ (span * (stress - 0.5) * rng.uniform(0.8, 1.6, len(starts)))
    slope = (now.slope - 0.8 * span) * (progress - 0.5)
    tremor = now.tremor * np.sin(2 * np.pi * rng.uniform(5.5, 7.0) * times + rng.uniform(0, 6))
    drift = np.interp(times, np.linspace(0, times[-1], 8), rng.normal(0, 0.4, 8))
    return now.pitch + rng.normal(0, 0.6) + accents + slope + tremor + drift


def _source(pitch: Samples, now: Prosody, voice: Voice, samples: int, rng: np.random.Generator) -> Samples:
    """The glottis: harmonics falling by 6 dB an octave up to half the rate, and breath."""
    jitter = np.exp(rng.normal(0, 0.004 + 0.02 * max(now.rough, 0), len(pitch)))
    cycles = np.cumsum(np.interp(np.arange(samples) / _HOP, np.arange(len(pitch)), pitch * jitter)) / RATE
    harmonics = int(0.47 * RATE / pitch.max())
    spectrum = np.zeros(2049, complex)
    spectrum[1 : harmonics + 1] = -1j / np.arange(1, harmonics + 1)
    wave = np.fft.irfft(spectrum, 4096) * 4096 / 2
    tone = wave[(cycles * 4096).astype(np.int64) & 4095]
    tone *= 1 - 0.7 * max(now.rough, 0) * (0.5 - 0.5 * np.cos(np.pi * cycles))  # every other period weaker
    breath = float(np.clip(voice.breath + now.breath, 0, 0.9))
    return (1 - breath) * tone + breath * rng.normal(0, 0.7, samples)


def _formant_filter(formants: Samples, tilt: float) -> Samples:
    """Gain of the vocal tract, (times, frequencies), for the formants (times, 3) in Hz."""
    frequency = np.fft.rfftfreq(_WINDOW, 1 / RATE)
    gain = np.full((len(formants), len(frequency)), 0.02)
    for number, (width, weight) in enumerate(((90, 1.0), (120, 0.6), (180, 0.35))):
        gain += weight / (1 + ((frequency - formants[:, number, None]) / width) ** 2)
    return gain * 2 ** (tilt / 6.02 * np.log2(np.maximum(frequency, 100) / 500))


def _shape(source: Samples, filters: Samples) -> Samples:
    """Filter `source` (times · _HOP,) by `filters` (times, frequencies): short-time Fourier, overlap and add."""
    window = np.hanning(_WINDOW + 1)[:-1]
    padded = np.concatenate((np.zeros(_WINDOW // 2), source, np.zeros(_WINDOW // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: len(filters)] * window
    shaped = np.fft.irfft(np.fft.rfft(frames) * filters, _WINDOW) * window
    out = np.zeros((len(filters) + _WINDOW // _HOP, _HOP))
    for part in range(_WINDOW // _HOP):
        out[part : part + len(filters)] += shaped[:, part * _HOP : (part + 1) * _HOP]
    return out.ravel()[_WINDOW // 2 : _WINDOW // 2 + len(source)] / 1.5


def _hiss(starts: Samples, stress: Samples, loud: float, samples: int, rng: np.random.Generator) -> Samples:
    """The consonants: a short burst of bright noise before most syllables."""
    out = np.zeros(samples)
    for start, weight in zip(starts, stress, strict=True):
        length = int(rng.uniform(0.03, 0.09) * RATE)
        at = max(0, int(start * RATE) - length // 2)
        if rng.random() < 0.7 and at + length < samples:
            noise = np.diff(rng.normal(0, 1, length + 1))  # bright: white noise, differentiated
            out[at : at + length] += 0.25 * loud * weight * noise * np.hanning(length)
    return out
