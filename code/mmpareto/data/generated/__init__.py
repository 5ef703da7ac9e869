"""Computed pictures and sounds: the stand-in's faces and voices, views of meshes, digits in colour."""
