"""Readers of the files that owners distribute: audio, video, meshes, images, pickles; and the features of audio."""
