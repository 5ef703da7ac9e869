"""What owners distribute, read: videos, sounds, meshes, images, pickles; and what features are of a sound."""
