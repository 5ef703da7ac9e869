"""Speed of training steps, loading and preparation, and memory of training steps."""

_OF_GPU = ("sections", "minutes", "slots", "commit")
_OF_STEP = (
    *("methods", "integration", "amp", "tf32", "channels_last", "fused", "compile"),
    *("blocks", "cross_terms", "modalities"),
)
OF_IMAGES = ("image_size", "frames", "audio_frames")  # without effect on vectors
_SHAPES = ("batch_size", *OF_IMAGES, "gpu_ids")
# Measurement → flags of benchmark.py without an effect on it.
WITHOUT_EFFECT = {
    "step": (*_OF_GPU, "clips", "workers"),
    "step on vectors": (*_OF_GPU, "clips", "workers", *OF_IMAGES),
    "loading": (*_OF_GPU, *_OF_STEP, *_SHAPES),
    "preparation": (*_OF_GPU, *_OF_STEP, *_SHAPES, "rounds", "workers"),
    "gpu": (*_OF_STEP, "clips", "workers"),
}
