"""Computed voices for the synthetic stand-in: syllables of a tone with harmonics and resonances, and breath.

The emotions change a voice in the directions that studies of acted speech report (Juslin & Laukka, Psychological
Bulletin 129(5), 2003, table 7).
"""

from collections import namedtuple

import numpy as np

Rng = np.random.Generator
RATE = 16_000  # Hz, as in CREMA-D
STEP = 160  # samples between two values of a contour: 10 ms
SHORTEST, LONGEST = 3.25, 3.6  # s: 1 fps gives four frames (the fourth is shown at 2.9 s), the filterbank 320 rows
SENTENCES = {  # CREMA-D's twelve, and the numbers of their syllables
    "IEO": 6, "TIE": 8, "IOM": 8, "IWW": 8, "TAI": 7, "MTI": 9, "IWL": 8, "ITH": 10, "DFA": 6, "ITS": 7, "TSI": 5,
    "WSI": 9,
}  # fmt: skip
# Changes of an actor's voice: pitch in semitones, size of the pitch movements in octaves (1 doubles them), loudness in
# dB, syllables per second in octaves, tilt of the spectrum in dB per octave, share of breath, tremor in semitones.
Prosody = namedtuple("Prosody", "pitch range loudness rate tilt breath tremor")
PROSODIES = {
    "NEU": Prosody(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "HAP": Prosody(6.0, 1.2, 3.0, 0.1, 1.0, 0.0, 0.0),
    "SAD": Prosody(-1.0, -1.2, -9.0, -0.4, -4.0, 0.05, 0.0),
    "FEA": Prosody(8.0, -0.8, -3.0, 0.5, 1.0, 0.4, 1.5),
    "DIS": Prosody(-3.0, 0.3, -2.0, -0.4, -2.0, 0.1, 0.0),
    "ANG": Prosody(3.0, 0.5, 9.0, 0.3, 5.0, 0.1, 0.0),
}


def speak(sentence: str, emotion: str, intensity: float, of_actor: Rng, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Speak a sentence.

    Arguments:
        sentence: a key of SENTENCES.
        emotion: a key of PROSODIES.
        intensity: 0 (neutral) to 1 (the full emotion).
        of_actor: random numbers that are the same for every clip of the actor.
        rng: the clip's own random numbers.

    Returns:
        The samples, int16 (n,) at RATE, and the opening of the mouth, from 0 to 1, every STEP samples.
    """
    size = of_actor.uniform(0, 1)  # of the actor: a large one has a low voice
    own_pitch, own_tract = 200 * 2**-size, 1.15 - 0.2 * size + of_actor.normal(0, 0.03)
    own_rate, own_range = of_actor.uniform((4.2, 1.8), (5.2, 3.0))
    full = np.array(PROSODIES[emotion])
    now = Prosody(*(intensity * full * rng.uniform(0.7, 1.3, full.size)).tolist())

    count, seconds = SENTENCES[sentence], rng.uniform(SHORTEST, LONGEST)
    times, clock = (np.arange(0, seconds, step / RATE) for step in (STEP, 1))  # of the contours, of the samples
    start, lengths = rng.uniform(0.2, 0.4), rng.uniform(0.8, 1.2, count) / (own_rate * 2**now.rate)
    lengths *= min(1.0, (seconds - start - 0.15) / lengths.sum())  # a sentence that would not fit is hurried
    phases = (times[:, None] - start - np.cumsum(lengths) + lengths) / lengths  # (times, syllables)
    syllables, stress = np.sin(np.pi * np.clip(phases, 0, 1)) ** 0.5, rng.uniform(0.5, 1, count)
    level = (syllables * stress).max(axis=1)
    span = own_range * 2**now.range
    semitones = now.pitch + span * (syllables @ (2 * stress - 1.5) + np.linspace(0.5, -0.5, len(times)))
    pitch = own_pitch * 2 ** ((semitones + now.tremor * np.sin(2 * np.pi * 6 * times)) / 12)
    tone, phase = np.zeros(len(clock)), 2 * np.pi * np.cumsum(np.interp(clock, times, pitch)) / RATE
    for number in range(1, int(0.47 * RATE / pitch.max())):
        offset = number * pitch[:, None] - own_tract * np.array([500, 1500, 2500])  # from a neutral vowel's resonances
        gain = level / number * (0.02 + (1 / (1 + (offset / 150) ** 2)).sum(axis=1))
        tone += np.interp(clock, times, gain * (number * pitch / 500) ** (now.tilt / 6)) * np.sin(number * phase)
    noise = rng.normal(0, 1, len(clock)) * np.interp(clock, times, level)
    breath = np.clip(0.05 + now.breath, 0, 1)
    spoken = (1 - breath) * tone / tone.std() + breath * noise / noise.std()
    spoken *= 0.1 * 10 ** ((now.loudness + rng.normal(0, 1)) / 20)
    spoken += rng.normal(0, 10 ** (rng.uniform(-62, -50) / 20), len(clock))  # the room
    return (np.tanh(spoken) * 32_000).astype(np.int16), level  # a loud voice saturates, as microphones do
